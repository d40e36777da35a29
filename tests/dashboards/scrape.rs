//! A daemon under load, scraped by a Prometheus that is asked all that the dashboards and the rules ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use penstock_loadtest::network::{Fault, Network, Options};
use penstock_loadtest::{Pace, RelayOptions, RelayServer, World, WorldSpec};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::boards::Board;
use crate::expression::{selectors, without_comparisons};
use crate::installed::{Installation, PATIENCE, get};
use crate::prometheus::{Prometheus, is_installed};
use crate::read;
use crate::rules::ALERTS;

/// Panels and their queries, by dashboard.
const COUNTS: [(&str, usize, usize); 4] = [
    ("backfill.json", 22, 23),
    ("overview.json", 19, 28),
    ("process.json", 9, 11),
    ("store.json", 14, 20),
];
/// Panels that show something above 0 while a daemon follows, replays and fetches.
const MOVING: [&str; 7] = [
    "Live",
    "Frames received",
    "Rows written",
    "Latency",
    "Replay",
    "Repositories done",
    "Ended in part",
];

const DAY: u64 = 86_400_000_000;
/// Frames of the two days before,
const PAST: usize = 2_000;
/// and of what is published while it is watched, at so many a second.
const EVENTS: usize = 12_000;
const RATE: f64 = 100.0;

/// What a query is put in for the variables.
fn substituted(expression: &str) -> String {
    let expression = expression.replace("$__rate_interval", "10s");
    let expression = expression.replace("$worker", ".*").replace("$relay", ".*");
    assert!(!expression.contains('$'), "{expression}");
    expression
}

fn relay(network: &Network) -> RelayServer {
    let world = World::generate(&WorldSpec {
        repos: 60,
        events: EVENTS as u64,
        past_events: PAST as u64,
        past: 2 * DAY,
        prefill: 50,
        ..WorldSpec::default()
    });
    let options = RelayOptions {
        pace: Pace::Rate(RATE),
        published: PAST + 100,
        lists: Some(network.relay_routes()),
        ..RelayOptions::default()
    };
    RelayServer::start(&world, options).unwrap()
}

/// A worker 0 that follows the head, replays a day slowly, and may fetch repositories.
fn installation(network: &Network, relay: &RelayServer) -> Installation {
    Installation::new(relay)
        .with("PLC_URL", network.plc_url())
        .with("PENSTOCK_RELAY__START", "head")
        .with("BACKFILL_DAYS", "1")
        .with("PENSTOCK_BACKFILL__MAX_EVENTS_PER_SECOND", "50")
        .with("PENSTOCK_BACKFILL__REREAD", "1s")
        .with("PENSTOCK_BACKFILL__REQUESTS_PER_SECOND", "1000")
        .with("PENSTOCK_BACKFILL__ATTEMPTS", "2")
        .with("PENSTOCK_BACKFILL__RETRY_WAIT", "250ms")
        .with("PENSTOCK_NET__ALLOW_PRIVATE", "true")
}

/// What is asked: for each place that asks, the queries.
async fn asked(prometheus: &Prometheus) -> BTreeMap<String, BTreeSet<String>> {
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut counts = Vec::new();
    for board in Board::all() {
        let queries = board.queries();
        counts.push((board.name.clone(), board.panels().len(), queries.len()));
        for query in queries {
            let of = asked
                .entry(format!("{}: {}", board.name, query.of))
                .or_default();
            let expression = substituted(&query.expression);
            of.extend(selectors(&expression));
            of.insert(expression);
        }
    }
    let counted = counts
        .iter()
        .map(|(name, panels, queries)| (name.as_str(), *panels, *queries));
    assert_eq!(counted.collect::<Vec<_>>(), COUNTS);
    let rules = prometheus.get("rules", &[]).await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
    let names: Vec<&str> = rules
        .iter()
        .map(|rule| rule["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ALERTS);
    for rule in &rules {
        let expression = rule["query"].as_str().unwrap();
        let of = asked
            .entry(format!("alerts.yml: {}", rule["name"]))
            .or_default();
        of.extend(selectors(expression));
        of.insert(without_comparisons(expression));
    }
    asked
}

/// Looks twice a second until nothing is left of what is waited for.
async fn until_nothing_is_left(mut look: impl AsyncFnMut() -> Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let left = look().await;
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not within {PATIENCE:?}: {left:#?}"
        );
    }
}

/// Asks until every query has been answered with series at once, and what moves has moved.
async fn until_answered(prometheus: &Prometheus, asked: &BTreeMap<String, BTreeSet<String>>) {
    let mut still: BTreeSet<&str> = MOVING.into();
    until_nothing_is_left(async || {
        let mut left = Vec::new();
        for (of, queries) in asked {
            for query in queries {
                let values = prometheus.query(query).await;
                if values.is_empty() {
                    left.push(format!("{of}: {query}"));
                }
                if values.iter().any(|value| *value > 0.0) {
                    still.retain(|panel| !of.ends_with(&format!(": {panel}")));
                }
            }
        }
        left.extend(still.iter().map(|panel| format!("{panel} is not above 0")));
        left
    })
    .await;
}

/// Waits until the rules were evaluated, and nobody is woken for a daemon that is well.
async fn until_no_alert_is_near(prometheus: &Prometheus) {
    until_nothing_is_left(async || {
        let rules = prometheus.get("rules", &[]).await;
        let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
        let is_well = |rule: &Value| rule["health"] == "ok" && rule["state"] == "inactive";
        let others = rules.iter().filter(|rule| !is_well(rule));
        others.map(ToString::to_string).collect()
    })
    .await;
}

/// What a scrape says of each metric: its type and its help.
fn described(scrape: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut described: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|of| of.split_once(' '))
        {
            described.entry(name).or_default().0 = kind;
        }
        if let Some((name, help)) = line
            .strip_prefix("# HELP ")
            .and_then(|of| of.split_once(' '))
        {
            described.entry(name).or_default().1 = help;
        }
    }
    described
}

fn assert_documented(scrape: &str) {
    let documented = read("docs/metrics.md");
    let described = described(scrape);
    for (name, (kind, help)) in &described {
        assert!(
            !kind.is_empty() && !help.is_empty(),
            "{name}: {kind:?}, {help:?}"
        );
        assert!(
            documented.contains(&format!("`{name}`")),
            "{name} is not in docs/metrics.md"
        );
    }
    for line in scrape
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let mut parts = ["", "_bucket", "_sum", "_count"].iter();
        let is_described = parts.any(|part| {
            let whole = name.strip_suffix(part);
            whole.is_some_and(|whole| described.contains_key(whole))
        });
        assert!(is_described, "{line} has neither type nor help");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_every_panel_and_rule_is_answered() {
    if !is_installed("every_query_of_every_panel_and_rule_is_answered") {
        return;
    }
    let network = Network::start(Options {
        faults: vec![(Fault::Truncated, 0.1)],
        ..Options::default()
    });
    let network = network.unwrap();
    let relay = relay(&network);
    let penstock = installation(&network, &relay);
    let mut daemon = penstock.start();
    let address = daemon.address().await;
    let prometheus = Prometheus::start(address.trim_start_matches("http://")).await;
    // What ended before the first scrape was never seen to grow.
    until_nothing_is_left(async || {
        let seen = prometheus.query("penstock_backfill_jobs_over_total").await;
        let wanted = seen.is_empty().then(|| "a first scrape".to_owned());
        wanted.into_iter().collect()
    })
    .await;
    penstock.prints(&["backfill", "start"]).await;

    let asked = asked(&prometheus).await;
    until_answered(&prometheus, &asked).await;
    for board in Board::all() {
        for (metric, label) in board.choices() {
            let route = format!("label/{label}/values");
            let values = prometheus.get(&route, &[("match[]", &metric)]).await;
            assert!(!values.as_array().unwrap().is_empty(), "{metric}: {label}");
        }
    }
    until_no_alert_is_near(&prometheus).await;
    assert_documented(&get(&penstock.socket(), "/metrics").await.unwrap());
    let queries: usize = asked.values().map(BTreeSet::len).sum();
    let counts = COUNTS
        .iter()
        .fold((0, 0), |sum, (_, panels, of)| (sum.0 + panels, sum.1 + of));
    let documented = format!("{} panels with {} queries", counts.0, counts.1);
    let metrics = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    assert!(
        std::fs::read_to_string(metrics)
            .unwrap()
            .contains(&documented)
    );
    println!(
        "{} panels with {} queries and {} rules: {queries} queries with their parts, all answered",
        counts.0,
        counts.1,
        ALERTS.len()
    );
    prometheus.stop().await;
    daemon.stop().await;
}
