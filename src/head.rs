//! The head of a request, kept so that it, or one like it, can be sent again.

use std::fmt;

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

/// Method, target and headers of a request.
pub(crate) struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    // A list instead of a map: most calls are sent once, and a map costs four times as much to copy.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Head {
    /// A copy.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers().iter();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }
    }

    /// Whether it is what `request` has: the very values, not others that say the same.
    pub(crate) fn is_of<B>(&self, request: &Request<B>) -> bool {
        let is_same = |(kept, there): (&(HeaderName, HeaderValue), (&HeaderName, &HeaderValue))| {
            std::ptr::eq(kept.1.as_bytes(), there.1.as_bytes())
                && kept.1.is_sensitive() == there.1.is_sensitive()
                && kept.0 == *there.0
        };
        let headers = request.headers();
        headers.len() == self.headers.len()
            && self.headers.iter().zip(headers).all(is_same)
            && *request.method() == self.method
            && request.version() == self.version
            && *request.uri() == self.uri
    }

    /// The headers, in their order.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.headers.iter()
    }

    /// How it was asked.
    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// A request to the same target, with `body` and no header.
    pub(crate) fn bare_request<B>(&self, method: Method, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        request
    }

    /// The same request, with `body`.
    pub(crate) fn request<B>(&self, body: B) -> Request<B> {
        let mut request = self.bare_request(self.method.clone(), body);
        for (name, value) in &self.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may be secrets.
        f.debug_struct("Head").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<()> {
        Request::post("/mcp?a=b")
            .version(Version::HTTP_10)
            .header("mcp-session-id", String::from("s"))
            .header("accept", String::from("a/b"))
            .header("accept", String::from("c/d"))
            .body(())
            .unwrap()
    }

    #[test]
    fn what_is_kept_makes_the_same_request_again() {
        let first = request();
        let second = Head::of(&first).request(());
        assert_eq!(
            (second.method(), second.uri(), second.version()),
            (first.method(), first.uri(), first.version())
        );
        assert_eq!(second.headers(), first.headers());
    }

    #[test]
    fn what_a_layer_has_changed_is_another_head() {
        let mut request = request();
        let head = Head::of(&request);
        assert!(head.is_of(&request));
        request
            .headers_mut()
            .insert("x", HeaderValue::from_static("1"));
        assert!(!head.is_of(&request));
        request.headers_mut().remove("x");
        assert!(head.is_of(&request));
        let same_text = HeaderValue::from_str("s").unwrap();
        request.headers_mut().insert("mcp-session-id", same_text);
        assert!(!head.is_of(&request));
        for change in [
            |request: &mut Request<()>| *request.method_mut() = Method::GET,
            |request: &mut Request<()>| *request.uri_mut() = Uri::from_static("/other"),
            |request: &mut Request<()>| *request.version_mut() = Version::HTTP_11,
        ] {
            let mut other = head.request(());
            assert!(head.is_of(&other));
            change(&mut other);
            assert!(!head.is_of(&other));
        }
    }
}
