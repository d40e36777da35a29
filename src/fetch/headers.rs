//! What an answer's headers say of rate limits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// Below this a `RateLimit-Reset` is seconds from now, else seconds since 1970.
const ABSOLUTE: u64 = 1_000_000_000;

/// What `RateLimit-*` leaves to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Requests that may still be sent; none: not said.
    pub(super) remaining: Option<u64>,
    /// Until it is filled again.
    pub(super) reset: Duration,
}

/// `RateLimit-Remaining` and `-Reset`.
pub(super) fn budget(headers: &HeaderMap) -> Option<Budget> {
    let reset = number(headers, "ratelimit-reset")?;
    let seconds = match reset {
        ..ABSOLUTE => reset,
        _ => reset.saturating_sub(now(headers)),
    };
    Some(Budget {
        remaining: number(headers, "ratelimit-remaining"),
        reset: Duration::from_secs(seconds),
    })
}

/// `Retry-After`, in either form.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => date(text)?.saturating_sub(now(headers)),
    };
    Some(Duration::from_secs(seconds))
}

/// The host's own clock where it shows it, in seconds since 1970: its times are to be read by that.
fn now(headers: &HeaderMap) -> u64 {
    let shown = headers.get(DATE).and_then(|value| value.to_str().ok());
    shown.and_then(date).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    })
}

fn date(text: &str) -> Option<u64> {
    let parsed = DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(parsed.as_second()).ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.get(..end.unwrap_or(text.len()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    const DATE_AT: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = |text| retry_after(&headers(&[("retry-after", text), DATE_AT]));
        assert_eq!(seconds("17"), Some(Duration::from_secs(17)));
        let date = seconds("Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(date, Some(Duration::from_secs(60)));
        let past = seconds("Sun, 06 Nov 1994 08:00:00 GMT");
        assert_eq!(past, Some(Duration::ZERO));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-1"), None);
        assert_eq!(retry_after(&headers(&[])), None);
    }

    #[test]
    fn reset_is_a_time_or_seconds() {
        let found = |reset: &str, remaining: &str| {
            let pairs = [
                ("ratelimit-reset", reset),
                ("ratelimit-remaining", remaining),
            ];
            budget(&headers(&pairs))
        };
        let soon = now(&HeaderMap::new()) + 100;
        let absolute = found(&soon.to_string(), "7").unwrap();
        assert!((99..=100).contains(&absolute.reset.as_secs()));
        assert_eq!(absolute.remaining, Some(7));
        let delta = found("30", "7;w=300").unwrap();
        assert_eq!(delta.reset, Duration::from_secs(30));
        assert_eq!(delta.remaining, Some(7));
        assert_eq!(found("1000000001", "0").unwrap().reset, Duration::ZERO);
        assert_eq!(found("30", "many").unwrap().remaining, None);
        assert_eq!(found("never", "7"), None);
    }
}
