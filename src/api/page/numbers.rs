//! What the page tells everyone: numbers of `/metrics`.

use super::samples::Samples;
use super::words::{UNKNOWN, bytes, count, duration, moment, or_unknown};
use crate::telemetry::metrics as names;

/// A name and its value.
pub(super) type Row = (String, String);

/// A number in large type.
pub(super) struct Number {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) about: &'static str,
}

/// A table of its own.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) rows: Vec<Row>,
}

/// How far the replay of what is missing is.
pub(super) struct Replay {
    pub(super) percent: String,
    pub(super) rows: Vec<Row>,
}

/// What is to be seen first. `missing` is the time of now in seconds, where the ledger was read; the metric is of a minute ago.
pub(super) fn headline(
    samples: &Samples<'_>,
    rate: Option<f64>,
    missing: Option<f64>,
) -> Vec<Number> {
    let missing = missing.or_else(|| samples.sum(names::LEDGER_MISSING.name()));
    let missing = missing.map(|seconds| match seconds > 0.0 {
        true => duration(seconds),
        false => "nothing".to_owned(),
    });
    vec![
        Number {
            id: "lag",
            name: "Lag",
            value: or_unknown(samples.sum(names::RELAY_LAG.name()), duration),
            about: "since the newest event",
        },
        Number {
            id: "durable-lag",
            name: "Durable lag",
            value: or_unknown(samples.sum(names::WATERMARK_LAG.name()), duration),
            about: "since all is durable",
        },
        Number {
            id: "rate",
            name: "Rate",
            value: or_unknown(rate, |rate| format!("{}/s", count(rate))),
            about: "events of the last 10 s",
        },
        Number {
            id: "missing-time",
            name: "Missing",
            value: missing.unwrap_or_else(|| UNKNOWN.to_owned()),
            about: "of the time that is wanted",
        },
    ]
}

/// How the replay goes.
pub(super) fn replay(samples: &Samples<'_>) -> Replay {
    // Other workers replay nothing.
    let ratio = samples.sum(names::WINDOW_PROGRESS.name()).unwrap_or(1.0);
    let percent = (ratio.clamp(0.0, 1.0) * 1000.0).floor() / 10.0;
    let until = samples.sum(names::WINDOW_TIME.name());
    let until = until.filter(|seconds| *seconds > 0.0).and_then(micros);
    let here = samples.sum(names::BACKFILL_WORKER.name());
    let mut rows = vec![
        row(
            "Replayed by",
            match here {
                Some(here) if here > 0.0 => "this worker".to_owned(),
                Some(_) => "worker 0".to_owned(),
                None => UNKNOWN.to_owned(),
            },
        ),
        row(
            "Replay has come to (UTC)",
            until.map_or_else(|| UNKNOWN.to_owned(), moment),
        ),
        counted(
            samples,
            "Frames replayed",
            names::RELAY_FRAMES.name(),
            Some(("stream", "replay")),
        ),
    ];
    for (state, told) in [
        ("pending", "Gaps to be replayed"),
        ("lost", "Gaps that no relay serves"),
    ] {
        rows.push(counted(
            samples,
            told,
            names::LEDGER_GAPS.name(),
            Some(("state", state)),
        ));
    }
    Replay {
        percent: format!("{percent:.1}"),
        rows,
    }
}

/// What is told of jobs without naming any.
pub(super) fn jobs(samples: &Samples<'_>) -> Vec<Row> {
    let mut rows = labelled(samples, "Jobs", names::BACKFILL_JOBS.name(), "status");
    rows.extend(labelled(
        samples,
        "Repositories",
        names::BACKFILL_REPOS.name(),
        "outcome",
    ));
    rows.push(counted(
        samples,
        "Records written",
        names::BACKFILL_RECORDS.name(),
        None,
    ));
    rows
}

/// All else.
pub(super) fn sections(samples: &Samples<'_>) -> Vec<Section> {
    vec![
        Section {
            id: "stream",
            title: "Stream",
            rows: stream(samples),
        },
        Section {
            id: "lanes",
            title: "Lanes",
            rows: lanes(samples),
        },
        Section {
            id: "store",
            title: "Store",
            rows: store(samples),
        },
        Section {
            id: "quarantine",
            title: "Quarantine and repairs",
            rows: quarantine(samples),
        },
    ]
}

fn stream(samples: &Samples<'_>) -> Vec<Row> {
    let connected = samples.by(names::RELAY_CONNECTED.name(), "relay");
    let mut rows: Vec<Row> = connected
        .into_iter()
        .map(|(relay, open)| {
            let state = if open > 0.0 {
                "connected"
            } else {
                "not connected"
            };
            (relay.to_owned(), state.to_owned())
        })
        .collect();
    let live = Some(("stream", "live"));
    rows.extend([
        counted(
            samples,
            "Watermark (seq)",
            names::WATERMARK_SEQ.name(),
            live,
        ),
        counted(samples, "Newest seq", names::RELAY_SEQ.name(), live),
        counted(samples, "Frames", names::RELAY_FRAMES.name(), live),
        row(
            "Bytes",
            or_unknown(
                samples.sum_where(names::RELAY_BYTES.name(), "stream", "live"),
                bytes,
            ),
        ),
        none_is_zero(
            samples,
            "Connections that ended",
            names::RELAY_RECONNECTS.name(),
        ),
    ]);
    let paused = samples.by(names::INGEST_PAUSED.name(), "reason");
    let reasons: Vec<&str> = paused
        .into_iter()
        .filter_map(|(reason, on)| (on > 0.0).then_some(reason))
        .collect();
    if !reasons.is_empty() {
        rows.push(row("Paused", reasons.join(", ")));
    }
    rows
}

fn lanes(samples: &Samples<'_>) -> Vec<Row> {
    let waiting = samples.by(names::PIPELINE_LANE_QUEUED_FRAMES.name(), "lane");
    let mut waiting: Vec<(&str, f64)> = waiting.into_iter().collect();
    waiting.sort_by_key(|(lane, _)| lane.parse::<u64>().unwrap_or(u64::MAX));
    let mut rows: Vec<Row> = waiting
        .into_iter()
        .map(|(lane, frames)| (format!("Frames that wait for lane {lane}"), count(frames)))
        .collect();
    rows.extend([
        row(
            "Bytes that wait",
            or_unknown(samples.sum(names::PIPELINE_QUEUED_BYTES.name()), bytes),
        ),
        row(
            "Reading stood still for",
            or_unknown(
                samples.sum(names::PIPELINE_FULL.name()).or(Some(0.0)),
                duration,
            ),
        ),
        within(samples, "99% are decoded within", names::DECODE.name()),
    ]);
    rows
}

fn store(samples: &Samples<'_>) -> Vec<Row> {
    let mut rows = labelled(samples, "Rows written", names::STORE_WRITES.name(), "table");
    rows.push(within(
        samples,
        "99% of batches are durable within",
        names::STORE_WRITE.name(),
    ));
    rows.push(none_is_zero(samples, "Errors", names::STORE_ERRORS.name()));
    let known = [
        (
            "Tried again",
            names::STORE_RETRIES.name(),
            count as fn(f64) -> String,
        ),
        (
            "Requests on their way",
            names::STORE_IN_FLIGHT.name(),
            count,
        ),
        (
            "Requests that may be",
            names::STORE_IN_FLIGHT_LIMIT.name(),
            count,
        ),
        ("On disk", names::STORE_DISK_BYTES.name(), bytes),
        ("Free on that disk", names::STORE_FREE_BYTES.name(), bytes),
    ];
    for (told, name, show) in known {
        rows.extend(samples.sum(name).map(|value| row(told, show(value))));
    }
    rows
}

fn quarantine(samples: &Samples<'_>) -> Vec<Row> {
    let mut rows = labelled(
        samples,
        "Frames since the start",
        names::QUARANTINED.name(),
        "reason",
    );
    rows.push(row(
        "Bytes held",
        or_unknown(samples.sum(names::QUARANTINE_BYTES.name()), bytes),
    ));
    rows.extend(labelled(
        samples,
        "Repairs that wait",
        names::REPAIRS_PENDING.name(),
        "reason",
    ));
    rows
}

fn row(name: &str, value: String) -> Row {
    (name.to_owned(), value)
}

/// A row for each value of a label, or one that says none.
fn labelled(samples: &Samples<'_>, told: &str, name: &str, label: &str) -> Vec<Row> {
    let values = samples.by(name, label);
    let values = values.into_iter().filter(|(_, value)| *value > 0.0);
    let rows: Vec<Row> = values
        .map(|(label, value)| (format!("{told}: {label}"), count(value)))
        .collect();
    match rows.is_empty() {
        true => vec![row(told, "none".to_owned())],
        false => rows,
    }
}

/// One number, of the samples with this label.
fn counted(samples: &Samples<'_>, told: &str, name: &str, label: Option<(&str, &str)>) -> Row {
    let value = match label {
        Some((label, value)) => samples.sum_where(name, label, value),
        None => samples.sum(name),
    };
    row(told, or_unknown(value, count))
}

/// A counter that was never counted is absent.
fn none_is_zero(samples: &Samples<'_>, told: &str, name: &str) -> Row {
    row(told, count(samples.sum(name).unwrap_or_default()))
}

fn within(samples: &Samples<'_>, told: &str, name: &str) -> Row {
    let bound = samples.quantile(name, 0.99);
    let bound = or_unknown(bound, |seconds| match seconds {
        seconds if seconds.is_infinite() => "more than 10 s".to_owned(),
        seconds if seconds < 1e-3 => format!("{:.1} µs", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{} ms", count(seconds * 1e3)),
        seconds => duration(seconds),
    });
    row(told, bound)
}

/// Seconds since 1970 as microseconds.
fn micros(seconds: f64) -> Option<u64> {
    let time = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from(time.as_micros()).ok()
}
