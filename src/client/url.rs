//! Where a server is.

use std::fmt;

use hyper::Uri;
use hyper::http::uri::Scheme;

use super::error::ClientError;

/// The address of a server: scheme, host, port, and the path under which its routes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// Empty, or begins with a slash and does not end with one.
    pub(super) prefix: String,
}

impl BaseUrl {
    /// Reads `http://HOST:PORT`, with https, a path, and a `/v1` at its end that OpenAI's clients
    /// write and that is dropped.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url { url: text.to_owned() };
        let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
            return Err(wrong());
        }
        let port = match authority.port() {
            None if authority.as_str().len() == authority.host().len() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            // A port that is no number of 16 bits.
            None => return Err(wrong()),
            Some(port) => port.as_u16(),
        };
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
        Ok(Self { tls, host: authority.host().to_owned(), port, prefix })
    }

    /// The port, that of the scheme if none was given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT` to open a socket to; `None` if it is to speak TLS.
    #[must_use]
    pub fn socket_name(&self) -> Option<String> {
        (!self.tls).then(|| format!("{}:{}", self.host, self.port))
    }

    /// The path of a route.
    #[must_use]
    pub fn path_of(&self, route: &str) -> String {
        format!("{}{route}", self.prefix)
    }

    /// The host without the brackets of an IPv6 address.
    pub(super) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The value of `Host`.
    pub(super) fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_what_people_write_around_them() {
        for (text, shown) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
            (" https://example.org/v1 ", "https://example.org"),
            ("https://example.org:443/a/b/v1/", "https://example.org/a/b"),
            ("http://[::1]:9/v1", "http://[::1]:9"),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
        assert_eq!(BaseUrl::parse("http://[::1]:9").unwrap().bare_host(), "::1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "127.0.0.1:8000",
            "localhost",
            "ftp://a",
            "http://",
            "http://a:b",
            "http://a:99999",
            "http://u:p@a",
            "http://a/?b",
        ] {
            let error = BaseUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains("expected http://HOST:PORT"), "{text}: {error}");
        }
    }
}
