//! What a 401 or 403 means, and what to do about it.

use std::fmt::Write as _;

use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::Value;
use url::Url;

use super::Subject;
use super::challenge::{Challenge, challenges};
use super::metadata::{self, Missing};
use super::page::{Ended, Verdict, shown, step};
use super::probe::end;
use crate::cli::client::{Answer, Client};
use crate::error::BoxError;

/// Explains the refusal, and ends the test.
pub(super) async fn explain(subject: &Subject, client: &Client, answer: &Answer) -> Ended {
    let challenges = challenges(&answer.headers);
    let status = answer.status.as_str();
    step(
        status,
        "mcp",
        &format!("refused: {}", describe(&challenges)),
    )?;
    let bearer = challenges.iter().find(|challenge| challenge.is_bearer());
    let has_login = if answer.status == StatusCode::UNAUTHORIZED {
        read_metadata(subject, bearer).await?
    } else {
        false
    };
    step(
        "skip",
        "era",
        &"cannot be known before the server lets us in",
    )?;
    let url = shown(client.connector().endpoint().origin());
    let sent = subject.headers.contains_key(AUTHORIZATION);
    if answer.status == StatusCode::FORBIDDEN {
        let what = if sent {
            "this credential is"
        } else {
            "a call without a credential is"
        };
        return end(
            Verdict::WantsCredential,
            &format!(
                "The server works, and {what} not enough for it: ask who runs {url} for the rights."
            ),
        );
    }
    if sent {
        return end(
            Verdict::WantsCredential,
            "The server works, and refuses this credential: is it the right one, and has it expired?",
        );
    }
    end(
        Verdict::WantsCredential,
        &advice(subject, bearer, challenges.first(), has_login),
    )
}

/// What to do without a credential.
fn advice(
    subject: &Subject,
    bearer: Option<&Challenge>,
    first: Option<&Challenge>,
    has_login: bool,
) -> String {
    let url = subject.shown_url();
    if let (None, Some(other)) = (bearer, first) {
        return format!(
            "The server works. It wants a credential of the kind {}; send it in a header of its own:\n  \
             outrigger test {url} --header 'Authorization: ${{CREDENTIAL}}'",
            shown(&other.scheme)
        );
    }
    let wants = if has_login {
        "It wants a login, which this version of outrigger cannot do for you"
    } else {
        "It wants a token, and does not say where to get one"
    };
    format!(
        "The server works. {wants}. With a token that you have:\n  \
         outrigger test {url} --bearer-env TOKEN\n\
         For a sidecar:  auth: {{type: bearer, token: {{valueFrom: {{env: TOKEN}}}}}}"
    )
}

/// `Bearer, scope "a b"`.
fn describe(challenges: &[Challenge]) -> String {
    if challenges.is_empty() {
        return "no challenge says what it wants".to_owned();
    }
    let mut out = String::new();
    for challenge in challenges {
        if !out.is_empty() {
            out.push_str("; ");
        }
        out.push_str(&shown(&challenge.scheme));
        for name in ["scope", "error", "error_description"] {
            if let Some(value) = challenge.parameter(name) {
                let name = name.replace('_', " ");
                let _ = write!(out, ", {name} \"{}\"", shown(value));
            }
        }
    }
    out
}

/// Prints what the server's metadata says of its login. Whether there is one.
async fn read_metadata(subject: &Subject, bearer: Option<&Challenge>) -> Result<bool, BoxError> {
    let Ok(url) = subject.url.parse::<Url>() else {
        return Ok(false);
    };
    let named = bearer.and_then(|challenge| challenge.parameter("resource_metadata"));
    let places = metadata::resource_places(&url, named);
    let resource = match metadata::find(subject, &places).await {
        Ok(resource) => resource,
        Err(Missing::Absent) => {
            step("info", "metadata", &"none about a protected resource")?;
            return Ok(false);
        }
        Err(Missing::Refused(why)) => {
            step(
                "FAIL",
                "metadata",
                &format!("of the protected resource: {}", shown(&why)),
            )?;
            return Ok(false);
        }
    };
    let of = text(&resource, "resource").unwrap_or_default();
    if !metadata::covers(of, &url) {
        step(
            "FAIL",
            "metadata",
            &format!("names another resource: \"{}\"", shown(of)),
        )?;
        return Ok(false);
    }
    let issuer = resource
        .pointer("/authorization_servers/0")
        .and_then(Value::as_str);
    let Some((issuer, parsed)) = issuer.and_then(|text| Some((text, text.parse::<Url>().ok()?)))
    else {
        step("FAIL", "metadata", &"names no authorization server")?;
        return Ok(false);
    };
    let chain = format!("protected resource → {}", shown(issuer));
    match metadata::find(subject, &metadata::issuer_places(&parsed)).await {
        Ok(server) if text(&server, "issuer") == Some(issuer) => {
            step("ok", "metadata", &format!("{chain} (issuer matches)"))?;
            step("info", "login", &login(&server))?;
            step("info", "client", &client_kinds(&server))?;
        }
        Ok(server) => {
            let other = text(&server, "issuer").unwrap_or("nobody");
            step(
                "FAIL",
                "metadata",
                &format!("{chain}, which calls itself \"{}\"", shown(other)),
            )?;
        }
        Err(Missing::Absent) => step("FAIL", "metadata", &format!("{chain}, which has none"))?,
        Err(Missing::Refused(why)) => {
            step("FAIL", "metadata", &format!("{chain}: {}", shown(&why)))?;
        }
    }
    Ok(true)
}

fn text<'a>(document: &'a Value, key: &str) -> Option<&'a str> {
    document.get(key).and_then(Value::as_str)
}

/// Whether a list of the document holds the word; without the list, whether its default does.
fn lists(document: &Value, key: &str, word: &str, default: &[&str]) -> bool {
    match document.get(key).and_then(Value::as_array) {
        Some(list) => list.iter().any(|item| item.as_str() == Some(word)),
        None => default.contains(&word),
    }
}

fn login(server: &Value) -> String {
    let grants = "grant_types_supported";
    let grants = |word| lists(server, grants, word, &["authorization_code", "implicit"]);
    let pkce = lists(server, "code_challenge_methods_supported", "S256", &[]);
    let mut out = match (grants("authorization_code"), pkce) {
        (true, true) => "authorization code with PKCE S256".to_owned(),
        (true, false) => "authorization code without PKCE S256, which MCP demands".to_owned(),
        (false, _) => "no authorization code".to_owned(),
    };
    if grants("refresh_token") {
        out.push_str(" and refresh");
    }
    out.push_str(if grants("urn:ietf:params:oauth:grant-type:device_code") {
        "; device code"
    } else {
        "; no device code"
    });
    if grants("client_credentials") {
        out.push_str("; client credentials");
    }
    out
}

fn client_kinds(server: &Value) -> String {
    let can_register = server
        .get("registration_endpoint")
        .is_some_and(Value::is_string);
    let takes_document = server
        .get("client_id_metadata_document_supported")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    match (can_register, takes_document) {
        (true, true) => "dynamic registration, and a client id metadata document",
        (true, false) => "dynamic registration, no client id metadata document",
        (false, true) => "no dynamic registration, but a client id metadata document",
        (false, false) => {
            "no dynamic registration, no client id metadata document: you must bring a client id"
        }
    }
    .to_owned()
}
