//! `WWW-Authenticate`: a list of challenges, over any number of header lines (RFC 9110, section 11.6.1).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn is_bearer(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("bearer")
    }
}

/// All challenges of an answer, in order. What is none is skipped.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for line in headers.get_all(WWW_AUTHENTICATE) {
        let line = String::from_utf8_lossy(line.as_bytes());
        read(&line, &mut found);
    }
    found
}

fn read(line: &str, found: &mut Vec<Challenge>) {
    for item in items(line) {
        let (word, rest) = item.split_once([' ', '\t']).unwrap_or((item, ""));
        let rest = rest.trim_start();
        // `name = value` has a space before its sign; a scheme has none behind it.
        if is_token(word) && !rest.starts_with('=') {
            found.push(Challenge {
                scheme: word.to_owned(),
                parameters: Vec::new(),
            });
            if rest.is_empty() {
                continue;
            }
        }
        let parameter = if is_token(word) && !rest.starts_with('=') {
            rest
        } else {
            item
        };
        if let (Some((name, value)), Some(challenge)) =
            (parameter.split_once('='), found.last_mut())
        {
            let name = name.trim().to_ascii_lowercase();
            if is_token(&name) {
                challenge.parameters.push((name, unquoted(value.trim())));
            }
        }
    }
}

/// The parts between commas that do not stand in quotes.
fn items(line: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    line.split(move |letter| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match letter {
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        letter == ',' && !is_quoted
    })
    .map(str::trim)
    .filter(|item| !item.is_empty())
}

fn is_token(word: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !word.is_empty() && word.bytes().all(is_token)
}

fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let Some(inner) = inner else {
        return value.to_owned();
    };
    let (mut out, mut is_escaped) = (String::with_capacity(inner.len()), false);
    for letter in inner.chars() {
        if letter == '\\' && !is_escaped {
            is_escaped = true;
        } else {
            is_escaped = false;
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        }
        challenges(&headers)
    }

    #[test]
    fn a_challenge_has_a_scheme_and_parameters() {
        let found = of(&[
            r#"bearer scope="repo, \"x\" user" , Resource_Metadata = "https://a/b?c=d",error=invalid_token"#,
        ]);
        let [challenge] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert!(challenge.is_bearer());
        assert_eq!(challenge.parameter("scope"), Some(r#"repo, "x" user"#));
        assert_eq!(
            challenge.parameter("resource_metadata"),
            Some("https://a/b?c=d")
        );
        assert_eq!(challenge.parameter("error"), Some("invalid_token"));
    }

    #[test]
    fn challenges_stand_in_one_line_and_in_several() {
        let found = of(&[r#"Basic realm="a, b", Negotiate, Bearer realm=x"#, "DPoP"]);
        let schemes: Vec<_> = found.iter().map(|it| it.scheme.as_str()).collect();
        assert_eq!(schemes, ["Basic", "Negotiate", "Bearer", "DPoP"]);
        assert_eq!(found[0].parameter("realm"), Some("a, b"));
        assert_eq!(found[2].parameter("realm"), Some("x"));
    }

    #[test]
    fn what_is_no_challenge_is_skipped() {
        assert!(of(&["", ",,", "a=b", "\"quoted"]).is_empty());
    }

    proptest! {
        #[test]
        fn any_line_gives_challenges_or_none(line in "[ -~]{0,80}") {
            let _ = of(&[&line]);
        }
    }
}
