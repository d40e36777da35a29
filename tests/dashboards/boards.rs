//! The dashboards as they lie in their files.

use std::collections::BTreeSet;
use std::fs;

use penstock::telemetry::metrics::{self, Kind, METRICS};
use serde_json::Value;

use crate::expression;
use crate::{RUNBOOK, is_in_the_runbook, read, root};

/// Where the links of panels find the runbook: a variable, so that one who keeps it elsewhere says so once.
const PLACE: &str = "${runbook:raw}";

/// A dashboard.
pub struct Board {
    pub name: String,
    json: Value,
}

/// What a panel or a variable asks Prometheus for.
pub struct Query {
    /// Of which panel or variable.
    pub of: String,
    pub expression: String,
}

impl Board {
    /// All that there are, by name.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir(root().join("dashboards")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".json")).collect();
        names.sort();
        let board = |name: String| {
            let json = serde_json::from_str(&read(&format!("dashboards/{name}")));
            let json = json.unwrap_or_else(|error| panic!("{name}: {error}"));
            Self { name, json }
        };
        names.into_iter().map(board).collect()
    }

    /// Its panels, without the rows' titles.
    pub fn panels(&self) -> Vec<&Value> {
        let panels = self.json["panels"].as_array().unwrap().iter();
        panels.filter(|panel| panel["type"] != "row").collect()
    }

    /// What its panels ask for, with variables.
    pub fn queries(&self) -> Vec<Query> {
        let queries = self.panels().into_iter().flat_map(|panel| {
            let targets = panel["targets"].as_array().unwrap().iter();
            targets.map(|target| Query {
                of: panel["title"].as_str().unwrap().to_owned(),
                expression: target["expr"].as_str().unwrap().to_owned(),
            })
        });
        queries.collect()
    }

    fn variables(&self) -> impl Iterator<Item = &Value> {
        self.json["templating"]["list"].as_array().unwrap().iter()
    }

    /// What the choices of its variables are: the values of a label of a metric.
    pub fn choices(&self) -> Vec<(String, String)> {
        let asking = self.variables().filter(|of| of["type"] == "query");
        let asked = asking.map(|of| {
            let query = of["query"]["query"].as_str().unwrap();
            let inner = query.strip_prefix("label_values(").unwrap();
            let (metric, label) = inner.trim_end_matches(')').split_once(", ").unwrap();
            (metric.to_owned(), label.to_owned())
        });
        asked.collect()
    }
}

/// The names that a scrape of the daemon has.
fn scraped() -> BTreeSet<String> {
    let rendered = metrics::render(&metrics::install().unwrap());
    let names = rendered
        .lines()
        .filter_map(|line| line.split([' ', '{']).next());
    let mut names: BTreeSet<String> = names
        .filter(|name| name.starts_with("process_"))
        .map(str::to_owned)
        .collect();
    for metric in METRICS {
        match metric.kind {
            Kind::Histogram => names
                .extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name))),
            Kind::Counter | Kind::Gauge => drop(names.insert(metric.name.to_owned())),
        }
    }
    names
}

/// Fails where an expression names a metric that no daemon exports.
pub fn assert_exported(expressions: impl IntoIterator<Item = (String, String)>) {
    let scraped = scraped();
    for (of, expression) in expressions {
        for metric in expression::metrics(&expression) {
            assert!(scraped.contains(metric), "{of} asks for {metric}");
        }
    }
}

#[test]
fn dashboards_ask_for_metrics_that_exist() {
    for board in Board::all() {
        let name = &board.name;
        let queries = board.queries().into_iter();
        assert_exported(queries.map(|query| (format!("{name}: {}", query.of), query.expression)));
        let choices = board.choices().into_iter();
        assert_exported(choices.map(|(metric, _)| (format!("{name}: a variable"), metric)));
    }
}

#[test]
fn each_panel_says_what_it_shows_and_what_to_do() {
    for board in Board::all() {
        let mut seen = BTreeSet::new();
        for panel in board.panels() {
            let title = panel["title"].as_str().unwrap();
            let what = format!("{}: {title:?}", board.name);
            assert!(seen.insert(panel["id"].as_u64().unwrap()), "{what}: its id");
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(description.len() > 20, "{what} has no description");
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            assert!(unit.is_string(), "{what} has no unit");
            for link in panel["links"].as_array().into_iter().flatten() {
                let url = link["url"].as_str().unwrap();
                assert!(is_in_the_runbook(url, PLACE), "{what}: no {url}");
            }
        }
    }
}

#[test]
fn the_place_of_the_runbook_can_be_set() {
    for board in Board::all() {
        let places = board.variables().filter(|of| of["name"] == "runbook");
        let places: Vec<&Value> = places.collect();
        assert_eq!(places.len(), 1, "{}", board.name);
        assert_eq!(places[0]["type"], "textbox", "{}", board.name);
        assert_eq!(places[0]["query"], RUNBOOK, "{}", board.name);
    }
}

/// Whoever chooses a worker sees only that one, wherever Prometheus is.
#[test]
fn each_panel_follows_the_variables() {
    for board in Board::all() {
        let name = &board.name;
        for panel in board.panels() {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
        }
        let queries = board.queries();
        for query in &queries {
            for selector in expression::selectors(&query.expression) {
                let follows = selector.contains("{instance=~\"$worker\"");
                assert!(follows, "{name}: {:?}: {selector}", query.of);
            }
        }
        for variable in board.variables().filter(|of| of["type"] == "query") {
            let used = format!("\"${}\"", variable["name"].as_str().unwrap());
            let mut expressions = queries.iter().map(|query| &query.expression);
            assert!(
                expressions.any(|text| text.contains(&used)),
                "{name}: {used}"
            );
        }
    }
}

/// A panel that is drawn over another is not seen.
#[test]
fn panels_do_not_overlap() {
    for board in Board::all() {
        let mut taken = BTreeSet::new();
        for panel in board.json["panels"].as_array().unwrap() {
            let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in of("x")..of("x") + of("w") {
                for y in of("y")..of("y") + of("h") {
                    let title = &panel["title"];
                    assert!(x < 24 && taken.insert((x, y)), "{}: {title}", board.name);
                }
            }
        }
    }
}
