//! The address of a relay.

use std::fmt;

use reqwest::Url;

/// A relay (or a PDS): scheme, host and port, nothing else. Printed as `wss://host[:port]` or `ws://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayUrl {
    host: String,
    port: u16,
    tls: bool,
}

const SUBSCRIBE: &str = "/xrpc/com.atproto.sync.subscribeRepos";

impl RelayUrl {
    /// Reads `host`, `host:port`, `http(s)://…` or `ws(s)://…`; without a scheme it is `wss`. The method's own path is
    /// taken off; any other path, a query or a user is refused. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str =
            "allowed: host, host:port, http(s)://… or ws(s)://…, without user, path or query";
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("wss://{text}"),
        };
        let url = Url::parse(&full).map_err(|_| ALLOWED)?;
        let tls = match url.scheme() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(ALLOWED),
        };
        let anonymous = url.username().is_empty() && url.password().is_none();
        let bare = matches!(url.path(), "" | "/" | SUBSCRIBE)
            && url.query().is_none()
            && url.fragment().is_none();
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) if anonymous && bare && !host.is_empty() && port != 0 => {
                Ok(Self {
                    host: host.to_owned(),
                    port,
                    tls,
                })
            }
            _ => Err(ALLOWED),
        }
    }

    /// The host's name or address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it is the scheme's own.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The WebSocket address of `com.atproto.sync.subscribeRepos`, from a cursor or from the live head.
    pub fn subscribe(&self, cursor: Option<u64>) -> String {
        match cursor {
            Some(cursor) => format!("{self}{SUBSCRIBE}?cursor={cursor}"),
            None => format!("{self}{SUBSCRIBE}"),
        }
    }

    /// The origin of the same host for XRPC over HTTP: `https://host[:port]`.
    pub fn http_origin(&self) -> String {
        self.spelled(if self.tls { "https" } else { "http" })
    }

    fn spelled(&self, scheme: &str) -> String {
        let default = if self.tls { 443 } else { 80 };
        match self.port == default {
            true => format!("{scheme}://{}", self.host),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled(if self.tls { "wss" } else { "ws" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_relay() {
        for (text, shown) in [
            ("bsky.network", "wss://bsky.network"),
            ("wss://bsky.network/", "wss://bsky.network"),
            ("https://BSKY.network:443", "wss://bsky.network"),
            ("http://localhost:2470", "ws://localhost:2470"),
            ("127.0.0.1:2470", "wss://127.0.0.1:2470"),
            ("ws://[::1]:2470", "ws://[::1]:2470"),
            ("ws://a.b/xrpc/com.atproto.sync.subscribeRepos", "ws://a.b"),
        ] {
            assert_eq!(RelayUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for wrong in [
            "",
            "ftp://a",
            "wss://",
            "wss://a/b",
            "wss://a?x=1",
            "wss://u:p@a",
            "a b",
            "a:99999",
            "a:0",
        ] {
            assert!(RelayUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_addresses_that_are_called() {
        let url = RelayUrl::parse("http://localhost:2470").unwrap();
        assert_eq!(
            url.subscribe(Some(7)),
            "ws://localhost:2470/xrpc/com.atproto.sync.subscribeRepos?cursor=7"
        );
        assert_eq!(url.http_origin(), "http://localhost:2470");
    }
}
