//! Which `Origin` and `Host` a listener answers to.

use std::net::IpAddr;

/// The names that a listener answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Names {
    /// None but what the layer allows by itself.
    #[default]
    Usual,
    /// These, besides.
    Listed(Vec<String>),
    /// Any (`*`).
    Any,
}

impl Names {
    /// The names of a configured list. `*` in it means any.
    pub fn of<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Self {
        let mut listed = Vec::new();
        for name in names {
            match name.as_ref().trim().trim_end_matches('/') {
                "*" => return Self::Any,
                name => listed.push(without_default_port(name).to_ascii_lowercase()),
            }
        }
        if listed.is_empty() {
            Self::Usual
        } else {
            Self::Listed(listed)
        }
    }

    /// Whether `origin` (`scheme://host:port`) is among them.
    pub(super) fn have_origin(&self, origin: &str) -> bool {
        match self {
            Self::Usual => false,
            Self::Listed(listed) => {
                let origin = without_default_port(origin);
                listed.iter().any(|name| name.eq_ignore_ascii_case(origin))
            }
            Self::Any => true,
        }
    }

    /// Whether `authority` (`host` or `host:port`) is among them; a listed name without a port stands for every port.
    pub(super) fn have_host(&self, authority: &str) -> bool {
        match self {
            Self::Usual => false,
            Self::Listed(listed) => listed.iter().any(|name| {
                name.eq_ignore_ascii_case(authority)
                    || name.eq_ignore_ascii_case(host_of(authority))
            }),
            Self::Any => true,
        }
    }
}

/// Whether an origin is that of a page from this very machine.
pub(super) fn is_loopback_origin(origin: &str) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(is_loopback_authority)
}

/// Whether `host` or `host:port` means this very machine, whatever a name server says.
pub(super) fn is_loopback_authority(authority: &str) -> bool {
    let host = host_of(authority);
    // The usual one, without reading it as an address.
    if host == "127.0.0.1" || host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let address: Result<IpAddr, _> = address.parse();
    address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The host of `host`, `host:port` or `[v6]:port`; brackets and all. What has anything else in it is its own host,
/// which is nobody's.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        _ => authority,
    }
}

/// Origins are written without the port that their scheme has anyway.
fn without_default_port(origin: &str) -> &str {
    let port = match origin.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => ":443",
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => ":80",
        _ => return origin,
    };
    origin.strip_suffix(port).unwrap_or(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_meant_literally() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback_authority(host), "{host}");
        }
        for host in [
            "",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "evil.com:127.0.0.1",
            "10.0.0.1",
            "[::2]",
            "user@localhost",
            "localhost:8a",
            "0.0.0.0",
        ] {
            assert!(!is_loopback_authority(host), "{host}");
        }
        assert!(is_loopback_origin("http://localhost:3000"));
        for origin in [
            "null",
            "localhost",
            "http://evil.com",
            "file://",
            "http://localhost@evil.com",
            "http://localhost/x",
        ] {
            assert!(!is_loopback_origin(origin), "{origin}");
        }
    }

    #[test]
    fn listed_origins_are_compared_whole() {
        let names = Names::of(["https://Ops.example.com/", "http://a.example.com:80"]);
        assert!(names.have_origin("https://ops.example.com"));
        assert!(names.have_origin("https://ops.example.com:443"));
        assert!(names.have_origin("http://a.example.com"));
        assert!(!names.have_origin("http://ops.example.com"));
        assert!(!names.have_origin("https://ops.example.com.evil.com"));
        assert!(Names::of(["x", "*"]).have_origin("null"));
        assert!(!Names::of([""; 0]).have_origin("https://ops.example.com"));
    }

    #[test]
    fn a_listed_host_without_a_port_stands_for_every_port() {
        let names = Names::of(["bridge.example.com", "b.example.com:81"]);
        assert!(names.have_host("bridge.example.com:8000"));
        assert!(names.have_host("Bridge.example.com"));
        assert!(names.have_host("b.example.com:81"));
        assert!(!names.have_host("b.example.com:82"));
        assert!(!names.have_host("x.bridge.example.com"));
    }
}
