//! A connection that was not made, and what an HTTP answer other than 101 means for the next try.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio_tungstenite::tungstenite::http::{HeaderMap, StatusCode, header};

use super::DisconnectReason;
use super::printable::{printable, printable_bytes};

/// Longest wait that a relay can ask us for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Wait after 501: the host does not serve the endpoint, which changes by a deployment, not soon.
const NOT_IMPLEMENTED_WAIT: Duration = Duration::from_secs(600);

/// Why an attempt to connect failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: DisconnectReason,
    /// One printable sentence.
    pub detail: String,
    pub status: Option<u16>,
    /// What the relay asked us to wait, limited.
    pub asked: Option<Duration>,
}

impl Refusal {
    /// A failure before there was an HTTP answer.
    pub(super) fn new(reason: DisconnectReason, detail: String) -> Self {
        Self {
            reason,
            detail,
            status: None,
            asked: None,
        }
    }

    /// Reads an HTTP answer other than 101; `body` is its beginning.
    pub(super) fn from_http(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Self {
        let reason = reason_of(status);
        let asked = match reason {
            DisconnectReason::NotImplemented => Some(NOT_IMPLEMENTED_WAIT),
            DisconnectReason::RateLimited | DisconnectReason::ServerError => {
                retry_after(headers, now)
            }
            _ => None,
        };
        Self {
            reason,
            detail: describe(status, headers, body),
            status: Some(status.as_u16()),
            asked,
        }
    }
}

fn reason_of(status: StatusCode) -> DisconnectReason {
    match status {
        StatusCode::TOO_MANY_REQUESTS => DisconnectReason::RateLimited,
        StatusCode::NOT_IMPLEMENTED => DisconnectReason::NotImplemented,
        status if status.is_server_error() => DisconnectReason::ServerError,
        status if status.is_redirection() => DisconnectReason::Redirect,
        _ => DisconnectReason::Refused,
    }
}

fn describe(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let mut detail = format!("HTTP {status}");
    let mut add = |label: &str, name: header::HeaderName| {
        if let Some(value) = headers.get(name) {
            detail.push_str(label);
            detail.push_str(&printable_bytes(value.as_bytes()));
        }
    };
    add(", Retry-After: ", header::RETRY_AFTER);
    if status.is_redirection() {
        add(
            ", redirects are not followed, name the relay itself in relay.urls; it points to ",
            header::LOCATION,
        );
    }
    let body = printable_bytes(body);
    if !body.is_empty() {
        detail.push_str(": ");
        detail.push_str(&body);
    }
    detail
}

/// `Retry-After` in its two forms (RFC 9110, 10.2.3), at most 10 minutes; `None` if there is none
/// that can be read.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let at = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
        Duration::try_from(at.duration_since(now)).unwrap_or_default()
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// For an answer that is no HTTP, or no answer at all.
pub(super) fn not_http(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(
        DisconnectReason::Protocol,
        format!(
            "no usable answer to the upgrade: {}",
            printable(&error.to_string())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, headers: &[(&'static str, &str)], body: &str) -> Refusal {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let now = "2026-07-04T12:00:00Z".parse().unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::from_http(status, &map, body.as_bytes(), now)
    }

    #[test]
    fn each_status_has_its_reason() {
        for (status, reason) in [
            (200, "refused"),
            (302, "redirect"),
            (400, "refused"),
            (405, "refused"),
            (426, "refused"),
            (429, "rate_limited"),
            (500, "server_error"),
            (501, "not_implemented"),
            (503, "server_error"),
        ] {
            let refusal = refusal(status, &[], "");
            assert_eq!(refusal.reason.as_str(), reason, "{status}");
            assert_eq!(refusal.status, Some(status));
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_limited() {
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("601", Some(600)),
            ("99999999999999999999999999", Some(600)),
            ("Sat, 04 Jul 2026 12:01:30 GMT", Some(90)),
            ("Sat, 04 Jul 2026 11:00:00 GMT", Some(0)),
            ("Sun, 05 Jul 2026 12:00:00 GMT", Some(600)),
            ("soon", None),
            ("-5", None),
            ("", None),
        ] {
            let asked = seconds.map(Duration::from_secs);
            assert_eq!(
                refusal(429, &[("retry-after", value)], "").asked,
                asked,
                "{value}"
            );
            assert_eq!(
                refusal(503, &[("retry-after", value)], "").asked,
                asked,
                "{value}"
            );
        }
        assert_eq!(refusal(405, &[("retry-after", "5")], "").asked, None);
        assert_eq!(refusal(501, &[], "").asked, Some(NOT_IMPLEMENTED_WAIT));
    }

    #[test]
    fn the_detail_is_for_people() {
        let html = format!("<html>\r\n<h1>\u{1b}busy</h1>{}", "x".repeat(5000));
        let detail = refusal(429, &[("retry-after", "7")], &html).detail;
        assert!(
            detail
                .starts_with("HTTP 429 Too Many Requests, Retry-After: 7: <html> <h1>?busy</h1>xx"),
            "{detail}"
        );
        assert!(detail.chars().count() < 260, "{detail}");
        let detail = refusal(301, &[("location", "https://other/")], "").detail;
        assert!(
            detail.contains("not followed") && detail.contains("https://other/"),
            "{detail}"
        );
    }
}
