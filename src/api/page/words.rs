//! Numbers as people read them.

use std::time::Duration;

use crate::decode::time::format_datetime;

/// What stands for a number that is not known.
pub(super) const UNKNOWN: &str = "–";

/// A number that may not be known.
pub(super) fn or_unknown(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}

/// `1,234,567`
pub(super) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `0.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`
pub(super) fn duration(seconds: f64) -> String {
    let Ok(time) = Duration::try_from_secs_f64(seconds) else {
        return UNKNOWN.to_owned();
    };
    match time.as_secs() {
        0..10 if !time.is_zero() => format!("{seconds:.1} s"),
        whole @ 0..60 => format!("{whole} s"),
        whole @ 60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        whole @ 3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        whole => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// `512 B`, `1.5 GiB`
pub(super) fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if value < 1024.0 {
        return format!("{value:.0} B");
    }
    let mut value = value;
    let mut named = "B";
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, named) = (value / 1024.0, unit);
    }
    format!("{value:.1} {named}")
}

/// `2026-09-26 15:52:21`, in UTC.
pub(super) fn moment(micros: u64) -> String {
    short(&format_datetime(micros))
}

/// The same of a time in RFC 3339.
pub(super) fn short(datetime: &str) -> String {
    let seconds = datetime.get(..19).unwrap_or(datetime);
    seconds.replace('T', " ")
}

/// Microseconds as seconds.
pub(super) fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let counts = [0.0, 7.0, 999.4, 1_000.0, 1_234_567.0, -1.0].map(count);
        assert_eq!(counts, ["0", "7", "999", "1,000", "1,234,567", "0"]);
        let times = [
            0.0,
            0.44,
            9.99,
            59.9,
            200.0,
            7_500.0,
            273_600.0,
            -1.0,
            f64::NAN,
        ];
        let said = times.map(duration);
        let wanted = [
            "0 s",
            "0.4 s",
            "10.0 s",
            "59 s",
            "3 min 20 s",
            "2 h 5 min",
            "3 d 4 h",
            UNKNOWN,
            UNKNOWN,
        ];
        assert_eq!(said, wanted);
        let sizes = [0.0, 1023.0, 1024.0, 1.5 * (1_u64 << 30) as f64].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        assert_eq!(moment(1_790_437_941_307_370), "2026-09-26 15:52:21");
        assert_eq!(or_unknown(None, count), UNKNOWN);
    }
}
