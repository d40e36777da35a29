//! `docs/metrics.md` and `docs/configuration.md` are made from the code; so they say what it does.
//!
//! `PENSTOCK_BLESS=1 cargo test --test docs` refreshes them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use penstock::config::{Key, REREAD, SECTIONS};
use penstock::telemetry::metrics::{Kind, METRICS, Metric};

fn assert_kept(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("PENSTOCK_BLESS").is_some() {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "{name} differs from the code; refresh it: PENSTOCK_BLESS=1 cargo test --test docs"
    );
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|")
}

fn code_list(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

const METRICS_INTRO: &str = "\
# Metrics

`GET /metrics` serves them as Prometheus text; no token is needed. The usual metrics of the process are there as well, without the prefix:
`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_virtual_memory_max_bytes`,
`process_open_fds`, `process_max_fds`, `process_threads`, `process_start_time_seconds`.

```sh
curl -s http://127.0.0.1:8400/metrics
```

What to watch first:

- `penstock_ready` is 0: `/readyz` says why in words.
- `penstock_relay_connected` is 0: no stream. `penstock_relay_reconnects_total` says why, by `reason`.
- `penstock_watermark_lag_seconds` grows: what is durable falls behind what was published. If `penstock_relay_lag_seconds` grows as
  well, the relay or the link is behind, or full queues keep the socket from being read; if only the first does, decoding or the store is.
- `penstock_pipeline_full_seconds_total` grows: the lanes or the store can't keep up, and the socket was not read meanwhile.
- `penstock_ledger_missing_seconds` stays above 0: something is missing. `penstock_ledger_gaps` says how many parts worker 0 will still
  replay, and how many are lost; `penstock gaps` says which ([backfill.md](backfill.md)).
- `penstock_quarantined_total` grows: [quarantine.md](quarantine.md).

Below are [dashboards and alerts](#dashboards-and-alerts) that watch this. Counters are there as 0 before they count, so that a first error is
seen as an increase; those of jobs only on worker 0. Lags are measured five times a second, the health of the store each 5 s, jobs each
10 s, the ledger each minute.

This table is made from the code: `PENSTOCK_BLESS=1 cargo test --test docs`.
";

/// What the values of the labels are, where the meaning does not say it.
const LABELS: &str = "
## Labels

| label | values |
| --- | --- |
| `relay` | host of the relay |
| `stream` | `live`, `replay` (worker 0's window and gaps) |
| `lane` | number of the lane, from 0 |
| `state` of `ledger_gaps` | `pending`, `lost` (a job repairs it from the repositories), `edge` (lost, but no more than the first hour of the window: it goes as that moves) ([backfill.md](backfill.md)) |
| `type` of `events_total` | `commit`, `sync`, `identity`, `account`, `info`, `error`, `unknown` |
| `action` | `create`, `update`, `delete`, and `unwanted` for operations on collections that are not stored |
| `source` | `stream` |
| `table` | `records`, `repos`, `repairs`, `quarantine`, `ledger` |
| `kind` of `store_errors_total` | `disk_full`, `corrupt`, `failed`, `refused`, `unavailable`, `schema`, `lease`, `closed`; of requests to a database `overloaded`, `timeout`, `unavailable`, `failure`, `connection`, `denied`, `schema`, `server`, `driver`, `refused` |
| `reason` of `relay_reconnects_total` | `closed`, `reset`, `timeout`, `too_large`, `protocol`, `text`, `refused`, `rate_limited`, `server_error`, `not_implemented`, `redirect`, `tls`, `dns`, `unreachable`, `error_frame` |
| `reason` of `frames_skipped_total` | `slot` (another worker's), `poison` (passed by), `unknown_type`, `reread` (dropped before a pause, read again after it) |
| `reason` of `quarantined_total` | `bad_cbor`, `bad_field`, `bad_car`, `cid_mismatch`, `missing_block`, `bad_commit`, `future_rev`, `too_large`, `store_refused` |
| `reason` of `record_faults_total` | `not_cbor`, `too_deep`, `not_canonical`, `bad_value`, `not_map` |
| `reason` of `repairs_pending` | `quarantined`, `sync`, `too_big`, `deleted`, `account_time`, `account_stale`, `reactivated`, `removed`, `gap` |
| `reason` of `pds_throttled_total` | `budget` (none left, as its headers said), and of 429s what told how long to wait: `retry_after`, `rate_limit` (`RateLimit-Reset`), `bare` (nothing did) |
| `outcome` of `identity_fetches_total` | `found`, `not_found`, `tombstoned`, `malformed`, `failed` (the directory or host did not answer as it should) |
| `status` of `backfill_jobs`, `backfill_catch_up_jobs` | `pending`, `running` |
| `type` of `backfill_jobs_over_total` | `window`, `catch_up`, `full_sync`, `collection`, `repos` ([api.md](api.md)) |
| `reason` of `ingest_paused` | `faults`, `clock`, `store` |
";

const DASHBOARDS: &str = "
## Dashboards and alerts

[`dashboards/`](../dashboards) has four dashboards for Grafana (overview, backfill, store, process), the rules of eight alerts for Prometheus,
and the files that give both to a Prometheus and a Grafana that start anew. [`compose.yaml`](../compose.yaml) starts them on one
machine ([scylla.md](scylla.md)). Each panel says what it shows and what to do; each alert and many panels lead to their section of the runbook.

With a Prometheus and a Grafana of your own:

- Let Prometheus scrape the workers of one store as one job, `penstock`, and load `alerts.yml`; `prometheus.yml` shows both. An installation
  beside it gets a job of its own, and its name in the first rule.
- Import the dashboards, or have them provisioned as `provisioning/` shows. They ask for the Prometheus to read, and for workers (by
  address) and relays.
- Links lead to `docs/runbook.md`, wherever you keep it. Each dashboard has a field for its address, which goes along to the others; in an address
  it is `var-runbook=https://wiki.example.com/runbook`. For good, and for the alerts, say it where the files are copied:

  ```sh
  sed 's|docs/runbook.md|https://wiki.example.com/runbook|' dashboards/alerts.yml | sudo tee /etc/prometheus/alerts.yml > /dev/null
  ```

  The same makes it the field's default in a dashboard. The package has all of them in `/usr/share/doc/penstock`.

| alert | severity | when |
| --- | --- | --- |
| `PenstockNotLive` | critical | for 5 minutes a worker does not answer, or says that it is not ready |
| `PenstockLagGrows` | warning | what is durable is over 5 minutes behind and does not catch up, for 10 minutes |
| `PenstockWatermarkStuck` | critical | frames come or wait, and nothing became durable for 15 minutes |
| `PenstockGapNotRepairable` | warning | something is missing that no relay serves, and no job that repairs it is at work, or it fails, for 30 minutes |
| `PenstockQuarantineRises` | warning | over 50 frames in 15 minutes could not be taken in, for 15 minutes |
| `PenstockStoreErrors` | warning | over 6 errors of the store a minute, for 10 minutes |
| `PenstockDiskFilling` | critical | the embedded store reaches `store.embedded.min_free` within 12 hours, or has less than half as much above it, for 30 minutes |
| `PenstockLeaseConflict` | critical | for 5 minutes a worker does not hold its lease, or two are the same worker, or they differ on how many they are |

Critical is what somebody should be woken for. A worker that is refused at its start, as for a lease that another process holds, does not
answer: that is `PenstockNotLive`. The disks of a database are not watched here.

`cargo test --test dashboards` runs a Prometheus (Debian's package `prometheus`) that scrapes a daemon at work, and asks it every query of
every panel and rule; and `promtool` with the cases of `alerts_test.yml`, in which each alert fires, and others in which it does not.
The dashboards have 64 panels with 82 queries; the tests count them.
";

fn metrics() -> String {
    let mut text = String::from(METRICS_INTRO);
    text.push_str("\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for Metric {
        name,
        kind,
        labels,
        help,
    } in METRICS
    {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = code_list(labels);
        let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {} |", cell(help));
    }
    text.push_str(LABELS);
    text.push_str(DASHBOARDS);
    text
}

#[test]
fn the_metrics_are_what_the_code_counts() {
    assert_kept("docs/metrics.md", &metrics());
}

const CONFIGURATION_INTRO: &str = "\
# Configuration

Everything has a default: `penstock run` alone follows the public relay into an embedded store. Four sources, the later
overruling the earlier:

1. the defaults below;
2. a TOML file: `--config FILE`, else `$PENSTOCK_CONFIG`, `./penstock.toml`, `/etc/penstock/penstock.toml`, the first that exists
   ([`config/penstock.toml`](../config/penstock.toml) has every key, commented);
3. variables: `PENSTOCK_RELAY__READ_TIMEOUT` is `relay.read_timeout`, and so for every key; some have a short one as well;
4. flags: `--set relay.read_timeout=30s`, before or behind the command, several times.

`penstock config` prints what is in effect and where each value came from, secrets redacted. Every command checks all of it
first: all mistakes are told at once, with the key, where the value came from and what is allowed; the exit code is 78, and
nothing is started. A key that is not known is a mistake too.

Sizes and times carry units: `256MiB`, `500ms`, `10m`. Lists are TOML arrays, or text with commas.

## Reading it again

```sh
kill -HUP PID
```

A daemon that gets SIGHUP reads all of it again, from the same file, variables and flags. The variables and flags are those that it was
started with, so what one of them sets changes only by a restart. With a mistake anywhere nothing changes, and the log has an
error for each mistake. Else:

- What the list below says that SIGHUP takes up holds from then on: all of it or, where the store does not answer, nothing. The log
  has a line for each key, with the value before and the value now. Limits hold for what is at work too, but nothing that was begun is
  broken off: fewer requests, jobs or bytes than there are come about as those end.
- A change of any other key is refused: a warning names the key, the value in effect and the one that was read. It needs a restart.
  That goes for what a file holds that a key names (tokens, `backfill.skip_dids`), too.
- `collections` is followed as by a restart. A worker writes what it stored of which collections into the ledger. What the list has more
  is fetched by a job of worker 0, which starts once all workers take it in: with several workers, send the signal to each. What the
  list has less is stored no more; what is held of it stays.

`penstock config` shows what a restart would use, not what a running daemon has. Try it: `cargo test --test reload`.

This list is made from the code: `PENSTOCK_BLESS=1 cargo test --test docs`.
";

/// The default as a reader would write it.
fn default_of(key: &Key) -> String {
    match key.default {
        "" => "none".to_owned(),
        text => format!("`{text}`"),
    }
}

fn joined(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    cell(&lines.join(" "))
}

fn configuration() -> String {
    let mut text = String::from(CONFIGURATION_INTRO);
    for section in SECTIONS {
        let name = section.keys[0].name;
        let name = name.rsplit_once('.').map_or(name, |(section, _)| section);
        let about = joined(section.doc);
        let _ = write!(text, "\n## {name}\n\n{about}\n\n");
        text.push_str("| key | default | variable | meaning |\n| --- | --- | --- | --- |\n");
        for key in section.keys {
            let variable = key
                .alias
                .map(|alias| format!("`{alias}`"))
                .unwrap_or_default();
            let mut meaning = joined(key.doc);
            if key.reread {
                let _ = write!(meaning, " {REREAD}");
            }
            let default = default_of(key);
            let _ = writeln!(
                text,
                "| `{}` | {default} | {variable} | {meaning} |",
                key.name
            );
        }
    }
    text
}

#[test]
fn the_configuration_is_what_the_code_reads() {
    assert_kept("docs/configuration.md", &configuration());
}

/// What `penstock` is asked for in a line of a shell's.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let line = line.split(" #").next()?;
    let words = line.split(['|', '>', '\\']).map(str::split_whitespace);
    let mut commands = words.filter_map(|mut words| {
        let program = words.next()?;
        (program == "penstock").then(|| {
            words
                .map(|word| if word == "ID" { "1" } else { word })
                .collect()
        })
    });
    commands.next()
}

#[test]
fn the_runbook_names_commands_and_metrics_that_are_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
    let text = fs::read_to_string(path).unwrap();
    let shell = text.split("```sh\n").skip(1);
    let lines = shell.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let spans = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| span.starts_with("penstock "));
    let mut commands = 0;
    for args in lines.chain(spans).filter_map(arguments) {
        // Asked for help last, it complains of what it does not know before.
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(&args)
            .arg("--help")
            .output()
            .unwrap();
        assert!(run.status.success(), "penstock {args:?}");
        commands += 1;
    }
    assert!(commands > 30, "{commands}");
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if let Some(name) = word.strip_prefix("penstock_") {
            let known = |metric: &Metric| {
                metric
                    .name
                    .trim_start_matches("penstock_")
                    .starts_with(name)
            };
            assert!(METRICS.iter().any(known), "{word}");
        }
    }
}
