//! Datetimes as AT Protocol spells them (RFC 3339), in microseconds since the Unix epoch.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Reads a datetime as microseconds since the Unix epoch, UTC.
///
/// A missing time zone is taken as UTC, since live relays send that (protocol.md, section 2). `None` for anything else
/// that is not a datetime, and for times before 1970.
pub fn parse_datetime(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() > 64 || bytes.get(10) != Some(&b'T') || !bytes.first()?.is_ascii_digit() {
        return None;
    }
    let shortened = shorten_fraction(text);
    let text = shortened.as_deref().unwrap_or(text);
    let time = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => TimeZone::UTC
            .to_timestamp(text.parse::<DateTime>().ok()?)
            .ok()?,
    };
    u64::try_from(time.as_microsecond()).ok()
}

/// Cuts the digits of a second's fraction beyond the ninth, if there are any: the specification allows them.
fn shorten_fraction(text: &str) -> Option<String> {
    let (before, fraction) = text.split_once('.')?;
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let zone = fraction.get(digits..)?;
    (digits > 9).then(|| format!("{before}.{}{zone}", fraction.get(..9).unwrap_or_default()))
}

/// Writes microseconds since the Unix epoch as `2026-09-26T15:52:21.307370Z`. Times that a datetime can't say, beyond
/// the year 9999, come out as the last that it can.
pub fn format_datetime(micros: u64) -> String {
    let time = i64::try_from(micros)
        .ok()
        .and_then(|micros| Timestamp::from_microsecond(micros).ok());
    format!("{:.6}", time.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_relays_send() {
        let with_zone = parse_datetime("2026-09-26T15:52:21.307370Z");
        assert_eq!(with_zone, Some(1_790_437_941_307_370));
        assert_eq!(parse_datetime("2026-09-26T15:52:21.307370"), with_zone);
        assert_eq!(parse_datetime("2026-09-26T17:52:21.30737+02:00"), with_zone);
        for bad in [
            "",
            "2026",
            "2026-09-26",
            "20260926T155221Z",
            "1969-12-31T23:59:59Z",
            "tomorrow",
            "2026-13-01T00:00:00Z",
        ] {
            assert_eq!(parse_datetime(bad), None, "{bad}");
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(
            format_datetime(1_790_437_941_307_370),
            "2026-09-26T15:52:21.307370Z"
        );
        assert_eq!(format_datetime(0), "1970-01-01T00:00:00.000000Z");
        assert!(format_datetime(u64::MAX).starts_with("9999-12-30"));
        assert_eq!(parse_datetime(&format_datetime(7)), Some(7));
    }
}
