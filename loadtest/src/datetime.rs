//! Datetimes as hosts and relays print them.

use jiff::Timestamp;

fn timestamp(micros: u64) -> Timestamp {
    i64::try_from(micros)
        .ok()
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or_default()
}

/// Now, in microseconds since the epoch.
pub fn now_micros() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// As in `2026-07-04T12:00:00.123Z`.
pub(crate) fn millis(micros: u64) -> String {
    format!("{:.3}", timestamp(micros))
}

/// As in `2026-07-04T12:00:00.123456Z`.
pub(crate) fn all_micros(micros: u64) -> String {
    format!("{:.6}", timestamp(micros))
}

/// As in `2026-07-04T12:00:00.123`: without a timezone, as some relays send it.
pub(crate) fn zoneless(micros: u64) -> String {
    let mut text = millis(micros);
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints() {
        assert_eq!(millis(1_790_437_941_307_370), "2026-09-26T15:52:21.307Z");
        assert_eq!(
            all_micros(1_790_437_941_307_370),
            "2026-09-26T15:52:21.307370Z"
        );
        assert_eq!(zoneless(1_790_437_941_000_000), "2026-09-26T15:52:21.000");
    }
}
