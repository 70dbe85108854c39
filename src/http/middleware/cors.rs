//! Pages from elsewhere: which of them a browser may let read this server's answers.
//!
//! Nothing is allowed unless the operator names an origin; then only what this server has: its
//! methods, any header, never cookies. Source: the Fetch standard, "HTTP CORS protocol".

use std::fmt;
use std::str::FromStr;

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};

/// Longest list of headers that a page may want to send: it goes back to the browser.
const WANTED_MAX_BYTES: usize = 1024;
/// How long a browser may remember what it was allowed.
const REMEMBER_SECONDS: u32 = 600;

/// An origin whose pages may read the answers, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(String);

/// A text that is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an origin such as https://example.org or http://localhost:3000, or * for every page")]
pub struct NoOrigin;

impl FromStr for AllowedOrigin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        // A browser sends scheme, host and port, in lower case; anything more would never be equal
        // to what it sends.
        let (scheme, place) = text.split_once("://").ok_or(NoOrigin)?;
        let plain_scheme =
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let plain_place = !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*,".contains(&byte));
        if plain_scheme && plain_place { Ok(Self(text.to_ascii_lowercase())) } else { Err(NoOrigin) }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a browser is told about one request: the value of `Access-Control-Allow-Origin`.
#[derive(Debug, Clone)]
pub(in crate::http) struct Allowance(HeaderValue);

impl Allowance {
    /// What a request from a page gets; `None` for requests that come from no page, and for pages
    /// that are not allowed.
    pub(in crate::http) fn of(origins: &[AllowedOrigin], request: &ServiceRequest) -> Option<Self> {
        let asking = request.headers().get(ORIGIN)?;
        let named = |origin: &AllowedOrigin| origin.0.as_bytes().eq_ignore_ascii_case(asking.as_bytes());
        if origins.iter().any(|origin| origin.0 == "*") {
            Some(Self(HeaderValue::from_static("*")))
        } else if origins.iter().any(named) {
            Some(Self(asking.clone()))
        } else {
            None
        }
    }

    /// The answer to a browser that asks before it sends the request itself; `None` if it does not
    /// ask.
    ///
    /// It carries no key: the browser sends one only with the request itself.
    pub(in crate::http) fn preflight(&self, request: &ServiceRequest) -> Option<HttpResponse> {
        if request.method() != Method::OPTIONS || !request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = HttpResponse::NoContent();
        response.insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE"));
        response.insert_header((ACCESS_CONTROL_MAX_AGE, REMEMBER_SECONDS));
        let wanted = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(wanted) = wanted.filter(|names| names.len() <= WANTED_MAX_BYTES) {
            response.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone()));
        }
        Some(response.finish())
    }

    /// Tells the browser that its page may read this answer, and the headers that matter.
    pub(in crate::http) fn tell(&self, headers: &mut HeaderMap) {
        let read: [(HeaderName, HeaderValue); 2] = [
            (ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone()),
            (ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, request-id, retry-after")),
        ];
        for (name, value) in read {
            headers.insert(name, value);
        }
        if self.0 != "*" {
            // Another page gets another answer: a shared cache must not mix them up.
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_a_browser_sends() {
        for text in ["*", "https://example.org", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abc"] {
            assert_eq!(text.parse::<AllowedOrigin>().map(|origin| origin.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("https://Example.ORG".parse::<AllowedOrigin>().unwrap().to_string(), "https://example.org");
        for text in ["", "example.org", "https://", "https://a/", "https://a/b", "://a", "https://*.a", "https://a b", "null"] {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(NoOrigin), "{text}");
        }
    }
}
