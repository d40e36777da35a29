//! Sizes, times and shares as people write them: `256MiB`, `200ms`, `5%`.
//!
//! Whole numbers only, so that what is printed is what was meant. Sizes: plain bytes, powers of 1000 (`kB` to `TB`) or of
//! 1024 (`KiB` to `TiB`). Times need a unit, since a bare number could be seconds or milliseconds.

use std::time::Duration;

/// Larger units first: printing takes the first that divides the value.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Bytes from `256MiB`, `1MB` or `4096`; none if it is no size or beyond 64 bits.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    number.checked_mul(unit_of(&SIZES, unit)?)
}

/// A time from `30s` or `200ms`; none if it has no unit or is beyond 64 bits of milliseconds.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    Some(Duration::from_millis(
        number.checked_mul(unit_of(&TIMES, unit)?)?,
    ))
}

/// A fraction from `5%` or `0.5%`; none outside of 0 to 100.
pub(crate) fn share(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?.trim_end();
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let percent: f64 = number.parse().ok().filter(|_| plain)?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// A size with the largest unit of 1024 that divides it.
pub(crate) fn print_size(bytes: u64) -> String {
    let binary = SIZES.iter().take(4).find(|(_, unit)| divides(*unit, bytes));
    match binary {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A time with the largest unit that divides it.
pub(crate) fn print_time(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match TIMES.iter().find(|(_, unit)| divides(*unit, millis)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => "0ms".to_owned(),
    }
}

fn divides(unit: u64, value: u64) -> bool {
    value > 0 && value.is_multiple_of(unit)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit.trim_start()))
}

fn unit_of(units: &[(&str, u64)], name: &str) -> Option<u64> {
    let found = units.iter().find(|(unit, _)| *unit == name);
    found.map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("256MiB"), Some(256 << 20));
        assert_eq!(size("2 GiB"), Some(2 << 30));
        assert_eq!(size("1MB"), Some(1_000_000));
        for wrong in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "1mib",
            "1 parsec",
            "99999999TiB",
            "+1",
            "1e3",
        ] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        assert_eq!(print_size(256 << 20), "256MiB");
        assert_eq!(print_size(1025), "1025");
        assert_eq!(print_size(0), "0");
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(time("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(time("30s"), Some(Duration::from_secs(30)));
        assert_eq!(time("5m"), Some(Duration::from_secs(300)));
        assert_eq!(time("1h"), Some(Duration::from_secs(3600)));
        for wrong in [
            "",
            "30",
            "30 bananas",
            "-1s",
            "1.5s",
            "18446744073709551615d",
        ] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
        assert_eq!(print_time(Duration::from_secs(90)), "90s");
        assert_eq!(print_time(Duration::from_secs(7200)), "2h");
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(share("5%"), Some(0.05));
        assert_eq!(share("100%"), Some(1.0));
        for wrong in ["5", "101%", "-1%", "nan%", "inf%", "%", "1e1%"] {
            assert_eq!(share(wrong), None, "{wrong}");
        }
    }
}
