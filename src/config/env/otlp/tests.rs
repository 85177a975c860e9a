use std::collections::BTreeMap;

use super::*;

fn read(tracing: &Tracing, variables: &[(&str, &str)]) -> Result<(Option<Export>, Report), Report> {
    let environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Export::read(tracing, &environment)
}

fn export(variables: &[(&str, &str)]) -> Option<Export> {
    let (export, report) = read(&Tracing::default(), variables).unwrap();
    assert_eq!(report.problems().len(), 0, "{report}");
    export
}

fn urls(variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
    let url = |collector: Option<Collector>| collector.map(|collector| collector.url);
    export(variables).map_or((None, None), |export| {
        (url(export.traces), url(export.metrics))
    })
}

#[test]
fn s0_31_rule_1_the_endpoint_is_that_of_both_signals_and_the_file_counts_more() {
    let text = |text: &str| Some(text.to_owned());
    let jaeger = (ENDPOINT, "http://jaeger:4318/");
    assert_eq!(
        urls(&[jaeger]),
        (
            text("http://jaeger:4318/v1/traces"),
            text("http://jaeger:4318/v1/metrics")
        )
    );
    assert_eq!(
        urls(&[
            jaeger,
            (TRACES.endpoint, "http://t/x"),
            (METRICS.exporter, "none")
        ]),
        (text("http://t/x"), None)
    );
    assert_eq!(
        urls(&[(TRACES.exporter, "otlp")]),
        (text("http://localhost:4318/v1/traces"), None)
    );
    let tracing = Tracing {
        otlp_endpoint: Some("https://c.example/base".parse().unwrap()),
        service_name: Some("mine".to_owned()),
    };
    let (export, _) = read(&tracing, &[jaeger, (SERVICE, "theirs")]).unwrap();
    let export = export.unwrap();
    let traces = export.traces.as_ref().unwrap();
    assert_eq!(traces.url, "https://c.example/base/v1/traces");
    assert_eq!(export.resource.last().unwrap().1, "mine");
}

#[test]
fn the_document_names_each_variable() {
    let document = include_str!("../../../../docs/environment.md");
    for name in [
        DISABLED,
        ENDPOINT,
        HEADERS,
        PROTOCOL,
        COMPRESSION,
        CERTIFICATE,
        TIMEOUT,
        SERVICE,
        RESOURCE,
        SAMPLER,
        SAMPLER_ARGUMENT,
        INTERVAL,
        TRACES.endpoint,
        TRACES.headers,
        TRACES.exporter,
        METRICS.endpoint,
        METRICS.exporter,
    ] {
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn rule_2_without_an_endpoint_nothing_is_exported() {
    assert_eq!(urls(&[]), (None, None));
    assert_eq!(urls(&[(ENDPOINT, " ")]), (None, None));
    assert_eq!(
        urls(&[(ENDPOINT, "http://c"), (DISABLED, "True")]),
        (None, None)
    );
    assert_eq!(
        urls(&[(PROTOCOL, "grpc"), (HEADERS, "nonsense")]),
        (None, None)
    );
}

#[test]
fn rule_3_what_would_send_nothing_is_refused_and_says_what_to_set() {
    for (name, value, said) in [
        (PROTOCOL, "grpc", "http/protobuf"),
        (TRACES.protocol, "http/json", "http/protobuf"),
        (HEADERS, "hunter2", "name=value"),
        (HEADERS, "a=hunter2%0a", "name=value"),
        (TRACES.endpoint, "unix:/hunter2", "http://collector:4318"),
        (
            METRICS.endpoint,
            "http://user:hunter2@c",
            "http://collector:4318",
        ),
    ] {
        let report = read(
            &Tracing::default(),
            &[(ENDPOINT, "http://c"), (name, value)],
        )
        .unwrap_err();
        let text = report.to_string();
        assert!(text.contains(name) && text.contains(said), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(report.problems().len(), 1, "{text}");
    }
}

#[test]
fn rule_3_what_changes_how_much_is_warned_of() {
    for (name, value) in [
        (SAMPLER, "xray"),
        (SAMPLER_ARGUMENT, "2"),
        (INTERVAL, "1s"),
        (COMPRESSION, "gzip"),
        (ENDPOINT, "http://c:4317"),
        (METRICS.exporter, "console"),
    ] {
        // Of two of one name the later one counts.
        let variables = [
            (ENDPOINT, "http://c"),
            (SAMPLER, "traceidratio"),
            (name, value),
        ];
        let (_, report) = read(&Tracing::default(), &variables).unwrap();
        assert_eq!(report.problems().len(), 1, "{name}: {report}");
    }
}

#[test]
fn rule_4_a_variable_of_one_signal_counts_more() {
    let export = export(&[
        (ENDPOINT, "https://c"),
        (HEADERS, "a=both"),
        (METRICS.headers, "b=metrics"),
        (CERTIFICATE, "/both.pem"),
        (TRACES.certificate, "/traces.pem"),
        (TIMEOUT, "2000"),
        (METRICS.timeout, "3000"),
        (PROTOCOL, "grpc"),
        (TRACES.protocol, "http/protobuf"),
        (METRICS.protocol, "http/protobuf"),
        (COMPRESSION, "gzip"),
        (TRACES.compression, "none"),
        (METRICS.compression, "none"),
    ])
    .unwrap();
    let told = |collector: Option<Collector>| {
        let collector = collector.unwrap();
        let headers = collector.headers.into_iter();
        let headers = headers.map(|(name, value)| format!("{name}={}", value.expose_secret()));
        (
            headers.collect::<Vec<_>>().join(","),
            collector.ca_file.unwrap().display().to_string(),
            collector.timeout.unwrap().as_secs(),
        )
    };
    assert_eq!(
        told(export.traces),
        ("a=both".to_owned(), "/traces.pem".to_owned(), 2)
    );
    assert_eq!(
        told(export.metrics),
        ("b=metrics".to_owned(), "/both.pem".to_owned(), 3)
    );
}

#[test]
fn rule_5_headers_in_the_clear_are_warned_of_once() {
    let warnings = |endpoint: &str| {
        let variables = [(ENDPOINT, endpoint), (HEADERS, "a=hunter2")];
        let (export, report) = read(&Tracing::default(), &variables).unwrap();
        assert!(export.is_some());
        let text = report.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        report.problems().len()
    };
    assert_eq!(warnings("http://collector:4318"), 1);
    assert_eq!(warnings("https://collector:4318"), 0);
    assert_eq!(warnings("http://127.0.0.1:4318"), 0);
    assert_eq!(warnings("http://localhost:4318"), 0);
}

#[test]
fn rule_5_headers_and_resources_are_pairs_with_percent_signs() {
    let export = export(&[
        (ENDPOINT, "https://c"),
        (HEADERS, "Authorization=Basic%20aHVudGVyMg==, x-a = b,"),
        (RESOURCE, "service.name=a,deployment.environment.name=p%2Cq"),
        (SERVICE, "b"),
        (CERTIFICATE, "/ca.pem"),
        (TIMEOUT, "2000"),
        (INTERVAL, "500"),
        (SAMPLER, "parentbased_traceidratio"),
        (SAMPLER_ARGUMENT, "0.25"),
    ])
    .unwrap();
    let collector = export.traces.as_ref().unwrap();
    let (name, value) = &collector.headers[0];
    assert_eq!(
        (name.as_str(), value.expose_secret()),
        ("authorization", "Basic aHVudGVyMg==")
    );
    assert_eq!(collector.headers[1].1.expose_secret(), "b");
    assert!(!format!("{export:?}").contains("aHVudGVyMg"));
    assert_eq!(
        export.resource[2],
        ("deployment.environment.name".to_owned(), "p,q".to_owned())
    );
    assert_eq!(export.resource[3].1, "b");
    assert_eq!(collector.timeout, Some(Duration::from_secs(2)));
    assert_eq!(export.interval, Some(Duration::from_millis(500)));
    assert_eq!((export.ratio, export.follows_parent), (0.25, true));
}
