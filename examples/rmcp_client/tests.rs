use super::*;

#[tokio::test]
async fn both_generations_go_through_the_stack() {
    for mode in [modern(), ClientLifecycleMode::Initialize] {
        let url = start(0).await.unwrap();
        let said = call(&url, Secret::new(TOKEN), mode).await.unwrap();
        assert_eq!(said, r#""hello""#);
    }
}

#[tokio::test]
async fn what_is_safe_to_repeat_is_repeated() {
    // The first request, `server/discover`, meets a server that is busy.
    let url = start(1).await.unwrap();
    let said = call(&url, Secret::new(TOKEN), modern()).await.unwrap();
    assert_eq!(said, r#""hello""#);
}

#[tokio::test]
async fn a_refused_token_is_told() {
    let url = start(0).await.unwrap();
    let error = call(&url, Secret::new("stale"), modern())
        .await
        .unwrap_err();
    let told = format!("{error:?}");
    assert!(told.contains("Unauthorized"), "{told}");
    assert!(!told.contains("stale"), "{told}");
}
