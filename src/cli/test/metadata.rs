//! The documents that say how to log in: of the protected resource (RFC 9728) and of its authorization server (RFC 8414,
//! `OpenID` Connect Discovery).
//!
//! Their addresses come from a server that is not trusted yet, so they are judged before anything is sent: https or the
//! URL's own origin, and no private address unless the URL itself leads to one. An answer that redirects to another
//! origin is not followed. A name is looked up once to be judged and once more to connect; one that changes in between is
//! not caught, which is why no credential and no secret of ours goes there.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use url::Url;

use super::Subject;
use crate::cli::client::Client;
use crate::error::{BoxError, Failure};
use crate::transport::connector::{Endpoint, PlaintextPolicy};

/// Why a document could not be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// There is none.
    Absent,
    /// It was not asked for, or the answer was none: why.
    Refused(String),
}

/// Where the resource's document may be, in order.
pub(super) fn resource_places(subject: &Url, named: Option<&str>) -> Vec<String> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let origin = subject.origin().ascii_serialization();
    let well_known = format!("{origin}/.well-known/oauth-protected-resource");
    match subject.path().trim_end_matches('/') {
        "" => vec![well_known],
        path => vec![format!("{well_known}{path}"), well_known],
    }
}

/// Where an issuer's document may be, in order.
pub(super) fn issuer_places(issuer: &Url) -> Vec<String> {
    let origin = issuer.origin().ascii_serialization();
    let oauth = format!("{origin}/.well-known/oauth-authorization-server");
    let openid = format!("{origin}/.well-known/openid-configuration");
    match issuer.path().trim_end_matches('/') {
        "" => vec![oauth, openid],
        path => vec![
            format!("{oauth}{path}"),
            format!("{openid}{path}"),
            format!("{origin}{path}/.well-known/openid-configuration"),
        ],
    }
}

/// Whether a document for `resource` is one for the URL: the same origin, and the URL's path at or below its own.
pub(super) fn covers(resource: &str, subject: &Url) -> bool {
    let Ok(resource) = resource.parse::<Url>() else {
        return false;
    };
    let (theirs, ours) = (resource.path().trim_end_matches('/'), subject.path());
    let rest = ours.strip_prefix(theirs);
    resource.origin() == subject.origin()
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The first document that there is at one of the places.
pub(super) async fn find(subject: &Subject, places: &[String]) -> Result<Value, Missing> {
    for place in places {
        match fetch(subject, place).await {
            Err(Missing::Absent) => {}
            other => return other,
        }
    }
    Err(Missing::Absent)
}

async fn fetch(subject: &Subject, place: &str) -> Result<Value, Missing> {
    let refused = |why: &str| Missing::Refused(why.to_owned());
    let endpoint = Endpoint::new(place, PlaintextPolicy::LoopbackOnly)
        .map_err(|error| Missing::Refused(error.to_string()))?;
    let is_own = endpoint.origin() == subject.endpoint.origin();
    let mut client = Client::new(endpoint, subject.params.clone(), HeaderMap::new())
        .map_err(|error| Missing::Refused(error.to_string()))?;
    if !is_own && leads_inside(&client).await? {
        let own = Client::new(
            subject.endpoint.clone(),
            subject.params.clone(),
            HeaderMap::new(),
        );
        let own = own.map_err(|error| Missing::Refused(error.to_string()))?;
        if !leads_inside(&own).await? {
            return Err(refused("it is at a private address, and the server is not"));
        }
    }
    let answered = tokio::time::timeout(subject.timeout, async {
        let mut answer = client.get().await?;
        let status = answer.status;
        Ok::<_, BoxError>((status, answer.message().await?))
    });
    match answered.await {
        Err(_) => Err(refused("it did not come in time")),
        Ok(Err(error)) => Err(Missing::Refused(reason(&error))),
        Ok(Ok((StatusCode::OK, Some(document)))) if document.is_object() => Ok(document),
        // Servers that know nothing of it answer with a page, or ask for a credential.
        Ok(Ok(_)) => Err(Missing::Absent),
    }
}

fn reason(error: &BoxError) -> String {
    Failure::of(error).map_or_else(|| error.to_string(), Failure::message)
}

/// Whether one of the addresses is of this machine or a private network.
async fn leads_inside(client: &Client) -> Result<bool, Missing> {
    let addresses = client.connector().addresses().await;
    let addresses = addresses.map_err(|failure| Missing::Refused(failure.message()))?;
    Ok(addresses.iter().any(|address| is_inside(address.ip())))
}

fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // Shared address space (RFC 6598), which clouds use for their own services.
            let is_shared = first == 100 && (64..128).contains(&second);
            first == 0
                || first >= 224
                || is_shared
                || address.is_loopback()
                || address.is_private()
                || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_named_document_is_the_only_one_looked_at() {
        let subject = url("https://h/a/mcp");
        assert_eq!(
            resource_places(&subject, Some("https://h/x")),
            ["https://h/x"]
        );
        let well_known = "https://h/.well-known/oauth-protected-resource";
        assert_eq!(
            resource_places(&subject, None),
            [format!("{well_known}/a/mcp"), well_known.to_owned()]
        );
        assert_eq!(resource_places(&url("https://h/"), None), [well_known]);
    }

    #[test]
    fn an_issuer_has_two_places_or_three() {
        assert_eq!(
            issuer_places(&url("https://as/t")),
            [
                "https://as/.well-known/oauth-authorization-server/t",
                "https://as/.well-known/openid-configuration/t",
                "https://as/t/.well-known/openid-configuration",
            ]
        );
        assert_eq!(
            issuer_places(&url("https://as")),
            [
                "https://as/.well-known/oauth-authorization-server",
                "https://as/.well-known/openid-configuration",
            ]
        );
    }

    #[test]
    fn a_resource_covers_what_is_at_or_below_it() {
        let subject = url("https://h/a/mcp?x=1");
        for resource in [
            "https://h/a/mcp",
            "https://H:443/a/mcp/",
            "https://h/a",
            "https://h",
        ] {
            assert!(covers(resource, &subject), "{resource}");
        }
        for resource in [
            "https://h/a/m",
            "https://h/b",
            "https://evil/a/mcp",
            "http://h/a/mcp",
            "x",
        ] {
            assert!(!covers(resource, &subject), "{resource}");
        }
    }

    #[test]
    fn c90_addresses_inside_are_known_in_every_spelling() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "224.0.0.1",
        ] {
            assert!(is_inside(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["203.0.113.7", "1.1.1.1", "2606:4700::1111"] {
            assert!(!is_inside(outside.parse().unwrap()), "{outside}");
        }
    }
}
