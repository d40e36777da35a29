//! What times tell: percentiles, and the CPU that they took.

use std::time::Duration;

/// Percentiles of times.
pub fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let of = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        let time = times.get(place.min(times.len().saturating_sub(1)));
        format!("{:.2}", time.map_or(0.0, Duration::as_secs_f64) * 1e3)
    };
    let count = times.len();
    format!(
        "p50 {} ms, p95 {} ms, p99 {} ms, max {} ms ({count} requests)",
        of(0.5),
        of(0.95),
        of(0.99),
        of(1.0)
    )
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// CPU seconds of this process.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .map(f64::from)
        .sum::<f64>()
        / 100.0
}
