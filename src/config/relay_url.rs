//! The address of a relay, as people write it and as it is dialled.

use std::fmt;
use std::str::FromStr;

use tokio_tungstenite::tungstenite::http::Uri;

/// Path of the subscription, appended to what the address names.
const ENDPOINT: &str = "/xrpc/com.atproto.sync.subscribeRepos";
/// Longest address taken, in bytes.
const MAX_URL: usize = 2048;

/// The address of one relay: `host`, `host:port`, `http(s)://…` or `ws(s)://…`.
///
/// A bare host means `wss`; `http` means `ws` and `https` means `wss`. A path goes before the
/// endpoint's own (`wss://host/relay` is asked for `/relay/xrpc/…`); an address that names the
/// endpoint already is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayUrl {
    tls: bool,
    /// Lower case, without the brackets of an IPv6 address.
    name: String,
    port: u16,
    /// Starts with a slash and ends with the endpoint.
    path: String,
}

impl RelayUrl {
    /// What the ledger names the relay by: `host`, or `host:port` if the port is not the scheme's own.
    pub fn host(&self) -> String {
        if self.port == default_port(self.tls) {
            self.bracketed()
        } else {
            format!("{}:{}", self.bracketed(), self.port)
        }
    }

    /// The full WebSocket address; `cursor` is sent as given, also 0; `None` asks for the live head.
    pub fn subscribe_url(&self, cursor: Option<u64>) -> String {
        let path = self.request_target(cursor);
        format!("{}://{}{path}", scheme(self.tls), self.host())
    }

    /// The origin of the same host for XRPC over HTTP: `https://host[:port]`; `None` if the address has a path.
    pub fn http_origin(&self) -> Option<String> {
        let scheme = if self.tls { "https" } else { "http" };
        (self.path == ENDPOINT).then(|| format!("{scheme}://{}", self.host()))
    }

    /// Whether the connection is encrypted (`wss`).
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The name or IP address to connect to, without brackets or port.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The TCP port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn request_target(&self, cursor: Option<u64>) -> String {
        match cursor {
            Some(cursor) => format!("{}?cursor={cursor}", self.path),
            None => self.path.clone(),
        }
    }

    fn bracketed(&self) -> String {
        if self.name.contains(':') {
            format!("[{}]", self.name)
        } else {
            self.name.clone()
        }
    }
}

impl fmt::Display for RelayUrl {
    /// The address without the endpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.path.strip_suffix(ENDPOINT).unwrap_or(&self.path);
        write!(f, "{}://{}{prefix}", scheme(self.tls), self.host())
    }
}

/// A text that is no address of a relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address of a relay: {0}")]
pub struct BadRelayUrl(&'static str);

impl FromStr for RelayUrl {
    type Err = BadRelayUrl;

    fn from_str(text: &str) -> Result<Self, BadRelayUrl> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadRelayUrl("it is empty"));
        }
        if text.len() > MAX_URL {
            return Err(BadRelayUrl("it is longer than 2048 bytes"));
        }
        if text.contains('#') {
            return Err(BadRelayUrl("a fragment (#…) has no meaning here"));
        }
        let (tls, rest) = split_scheme(text).ok_or({
            BadRelayUrl("the scheme is unknown: allowed are wss, ws, https, http, or a bare host")
        })?;
        let uri: Uri = format!("{}://{rest}", scheme(tls)).parse().map_err(|_| {
            BadRelayUrl("it is no host, host:port or URL (names beyond ASCII need punycode)")
        })?;
        let authority = uri.authority().ok_or(BadRelayUrl("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(BadRelayUrl("user and password are not supported"));
        }
        if uri.query().is_some() {
            return Err(BadRelayUrl(
                "a query (?…) can't be given: the cursor is set by the daemon",
            ));
        }
        let name = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        if name.is_empty() {
            return Err(BadRelayUrl("it has no host"));
        }
        let after_host = authority
            .as_str()
            .get(authority.host().len()..)
            .unwrap_or_default();
        let port = match (after_host, authority.port_u16()) {
            ("", _) => default_port(tls),
            (_, Some(port)) if port > 0 => port,
            _ => return Err(BadRelayUrl("the port must be a number from 1 to 65535")),
        };
        Ok(Self {
            tls,
            name,
            port,
            path: endpoint_path(uri.path()),
        })
    }
}

/// Whether TLS is meant, and the rest after the scheme; `None` if the scheme is unknown.
fn split_scheme(text: &str) -> Option<(bool, &str)> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Some((true, text));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "wss" | "https" => Some((true, rest)),
        "ws" | "http" => Some((false, rest)),
        _ => None,
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "wss" } else { "ws" }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn endpoint_path(given: &str) -> String {
    let prefix = given.trim_end_matches('/');
    let prefix = prefix.strip_suffix(ENDPOINT).unwrap_or(prefix);
    format!("{prefix}{ENDPOINT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RelayUrl {
        text.parse().unwrap()
    }

    #[test]
    fn every_spelling_leads_to_the_endpoint() {
        for (text, host, full) in [
            ("bsky.network", "bsky.network", "wss://bsky.network"),
            (" BSKY.network/ ", "bsky.network", "wss://bsky.network"),
            (
                "https://bsky.network:443",
                "bsky.network",
                "wss://bsky.network",
            ),
            ("http://localhost", "localhost", "ws://localhost"),
            (
                "ws://localhost:2470/",
                "localhost:2470",
                "ws://localhost:2470",
            ),
            ("WSS://h:80", "h:80", "wss://h:80"),
            ("localhost:2470", "localhost:2470", "wss://localhost:2470"),
            ("ws://[::1]:2470", "[::1]:2470", "ws://[::1]:2470"),
            ("[::1]", "[::1]", "wss://[::1]"),
            ("wss://h/a/b/", "h", "wss://h/a/b"),
            (
                "wss://h/xrpc/com.atproto.sync.subscribeRepos",
                "h",
                "wss://h",
            ),
        ] {
            let url = url(text);
            assert_eq!(url.host(), host, "{text}");
            assert_eq!(url.to_string(), full, "{text}");
            assert_eq!(
                url.subscribe_url(None),
                format!("{full}{ENDPOINT}"),
                "{text}"
            );
        }
        assert_eq!(url("[::1]").name(), "::1");
    }

    #[test]
    fn a_cursor_of_zero_is_sent() {
        assert!(
            url("h")
                .subscribe_url(Some(0))
                .ends_with("subscribeRepos?cursor=0")
        );
        assert!(
            url("h")
                .subscribe_url(Some(u64::MAX))
                .ends_with("?cursor=18446744073709551615")
        );
    }

    #[test]
    fn what_display_shows_parses_to_the_same() {
        for text in ["h", "ws://h:8080", "wss://[::1]:4/x", "http://h/p/"] {
            assert_eq!(url(&url(text).to_string()), url(text));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("", "empty"),
            ("ftp://h", "scheme"),
            ("wss://", "host"),
            ("wss://u:p@h", "password"),
            ("wss://h?cursor=5", "query"),
            ("wss://h#x", "fragment"),
            ("h:99999", "port"),
            ("h:0", "port"),
            ("h:", "port"),
            ("two words", "URL"),
            ("höst", "punycode"),
        ] {
            let error = RelayUrl::from_str(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        let long = "h".repeat(MAX_URL + 1);
        assert!(RelayUrl::from_str(&long).unwrap_err().to_string().len() < 500);
    }
}
