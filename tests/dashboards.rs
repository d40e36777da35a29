//! `compose.yaml` and what it starts with: every file that it mounts is there, images are pinned, ports are on loopback, and
//! the dashboards ask for metrics that exist. No container engine is needed, so none of it is run here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use penstock::telemetry::metrics::{Kind, METRICS};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The items of a YAML list of texts below this key, wherever it is, without quotes.
fn items(yaml: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.strip_prefix("- ").unwrap_or(line) != format!("{key}:") {
            continue;
        }
        while let Some(item) = lines.peek().and_then(|line| line.trim().strip_prefix("- ")) {
            found.push(item.trim_matches('"').to_owned());
            lines.next();
        }
    }
    found
}

fn values<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let of = |line: &'a str| line.trim().strip_prefix(&format!("{key}: "));
    yaml.lines().filter_map(of).collect()
}

#[test]
fn what_is_mounted_is_there_and_may_not_be_written() {
    let compose = read("compose.yaml");
    let mounts = items(&compose, "volumes");
    let (files, volumes): (Vec<_>, Vec<_>) =
        mounts.iter().partition(|mount| mount.starts_with("./"));
    assert!(files.len() >= 3, "{mounts:?}");
    for mount in files {
        let (path, inside) = mount.split_once(':').unwrap();
        assert!(root().join(path).exists(), "{path} is mounted and missing");
        assert!(inside.ends_with(":ro"), "{mount} can be written to");
    }
    for volume in volumes {
        let name = volume.split(':').next().unwrap();
        let declared = compose.lines().any(|line| line == format!("  {name}:"));
        assert!(declared, "the volume {name} is not declared");
    }
}

#[test]
fn images_are_pinned_and_ports_are_on_loopback() {
    let compose = read("compose.yaml");
    let images = values(&compose, "image");
    assert_eq!(images.len(), 3);
    for image in images {
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        let numbers = tag.trim_start_matches('v').split('.');
        let pinned = numbers.clone().count() == 3;
        assert!(
            pinned && numbers.clone().all(|part| part.parse::<u32>().is_ok()),
            "{image} names no release"
        );
    }
    let ports = items(&compose, "ports");
    assert_eq!(ports.len(), 3);
    for port in ports {
        assert!(port.starts_with("127.0.0.1:"), "{port} is open to others");
    }
}

/// The names in a PromQL expression that look like metrics of ours or of the process.
fn metrics_of(expression: &str) -> impl Iterator<Item = &str> {
    let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    names.filter(|name| name.starts_with("penstock_") || name.starts_with("process_"))
}

/// The names that a scrape of the daemon has.
fn scraped() -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        ["process_cpu_seconds_total", "process_resident_memory_bytes"]
            .map(str::to_owned)
            .into();
    for metric in METRICS {
        match metric.kind {
            Kind::Histogram => names
                .extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name))),
            Kind::Counter | Kind::Gauge => drop(names.insert(metric.name.to_owned())),
        }
    }
    names
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    let entries = fs::read_dir(root().join("dashboards")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let boards = paths.filter(|path| path.extension().is_some_and(|ext| ext == "json"));
    boards
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let board = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, board)
        })
        .collect()
}

#[test]
fn dashboards_ask_for_metrics_that_exist_and_say_what_they_show() {
    let scraped = scraped();
    let boards = dashboards();
    assert!(!boards.is_empty());
    for (path, board) in boards {
        let name = path.display();
        let mut asked = 0;
        for panel in board["panels"].as_array().unwrap() {
            if panel["type"] == "row" {
                continue;
            }
            let title = panel["title"].as_str().unwrap();
            let described = panel["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            assert!(described, "{name}: {title:?} has no description");
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            assert!(unit.is_string(), "{name}: {title:?} has no unit");
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                for metric in metrics_of(expression) {
                    asked += 1;
                    assert!(
                        scraped.contains(metric),
                        "{name}: {title:?} asks for {metric}"
                    );
                }
            }
        }
        assert!(asked > 0, "{name} asks for nothing");
        for variable in board["templating"]["list"].as_array().unwrap() {
            let query = variable["query"]["query"].as_str().unwrap();
            for metric in metrics_of(query) {
                assert!(
                    scraped.contains(metric),
                    "{name}: a variable asks for {metric}"
                );
            }
        }
    }
}

/// A panel that is drawn over another is not seen.
#[test]
fn panels_do_not_overlap() {
    for (path, board) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in of("x")..of("x") + of("w") {
                for y in of("y")..of("y") + of("h") {
                    let title = &panel["title"];
                    assert!(
                        x < 24 && taken.insert((x, y)),
                        "{}: {title}",
                        path.display()
                    );
                }
            }
        }
    }
}

#[test]
fn grafana_finds_its_source_and_its_dashboards() {
    let source = read("dashboards/provisioning/datasources/prometheus.yml");
    let provider = read("dashboards/provisioning/dashboards/penstock.yml");
    let compose = read("compose.yaml");
    let uid = values(&source, "uid")[0];
    for (path, board) in dashboards() {
        for panel in board["panels"].as_array().unwrap() {
            let of = &panel["datasource"]["uid"];
            assert!(of.is_null() || of == uid, "{}: source {of}", path.display());
        }
    }
    let folder = values(&provider, "path")[0];
    let mounted = format!("./dashboards:{folder}:ro");
    assert!(items(&compose, "volumes").contains(&mounted), "{mounted}");
    let targets = items(&read("dashboards/prometheus.yml"), "targets");
    for worker in ["host.docker.internal:8400", "host.docker.internal:8401"] {
        assert!(targets.iter().any(|target| target == worker), "{worker}");
    }
    assert!(
        items(&compose, "extra_hosts").contains(&"host.docker.internal:host-gateway".to_owned())
    );
}
