//! A Prometheus of a test's own: on loopback, with its data in a temporary folder.

use std::fs::File;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval};

use crate::installed::PATIENCE;
use crate::root;

/// Whether Prometheus and promtool are on this machine; else says that the test is skipped.
pub fn is_installed(test: &str) -> bool {
    let runs = |program| {
        let mut command = std::process::Command::new(program);
        command.arg("--version").output().is_ok()
    };
    if runs("prometheus") && runs("promtool") {
        return true;
    }
    let message = format!("SKIPPED {test}: it needs Debian's package prometheus\n");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    // Around the harness, which hides what passing tests print.
    let _ = std::io::stderr().write_all(message.as_bytes());
    false
}

/// A running Prometheus, with the alert rules; killed when it is dropped.
pub struct Prometheus {
    child: Child,
    home: TempDir,
    url: String,
    client: reqwest::Client,
}

impl Prometheus {
    /// Scrapes this address (`host:port`) as the job `penstock`, twice a second.
    pub async fn start(target: &str) -> Self {
        let home = TempDir::new().unwrap();
        let rules = root().join("dashboards/alerts.yml");
        let configuration = format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  evaluation_interval: 500ms\n\
             rule_files: ['{}']\n\
             scrape_configs:\n  - job_name: penstock\n    static_configs:\n      - targets: ['{target}']\n",
            rules.display()
        );
        std::fs::write(home.path().join("prometheus.yml"), configuration).unwrap();
        let log = File::create(home.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // The client panics without a provider; a second choice is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut prometheus = Self {
            child,
            home,
            url: String::new(),
            client: reqwest::Client::new(),
        };
        prometheus.url = prometheus.serves().await;
        prometheus
    }

    /// Waits until it answers queries, and gives its URL.
    async fn serves(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            let log = std::fs::read_to_string(self.home.path().join("log")).unwrap();
            let said = log.lines().find(|line| line.contains("\"Listening on\""));
            if let Some((_, address)) = said.and_then(|line| line.split_once("address=")) {
                let url = format!("http://{}", address.trim());
                let ready = self.client.get(format!("{url}/-/ready")).send().await;
                if ready.is_ok_and(|answer| answer.status() == 200) {
                    return url;
                }
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "prometheus ended with {ended:?}:\n{log}");
            assert!(
                Instant::now() < deadline,
                "prometheus does not serve:\n{log}"
            );
        }
    }

    /// What a route of its API answers with.
    pub async fn get(&self, route: &str, parameters: &[(&str, &str)]) -> Value {
        let request = self.client.get(format!("{}/api/v1/{route}", self.url));
        let request = request.query(parameters).timeout(PATIENCE);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// The values of now of a query, one for each series.
    pub async fn query(&self, query: &str) -> Vec<f64> {
        let data = self.get("query", &[("query", query)]).await;
        let series = data["result"].as_array().unwrap().iter();
        let value = |series: &Value| series["value"][1].as_str().unwrap().parse().unwrap();
        series.map(value).collect()
    }

    /// SIGTERM; it must end well.
    pub async fn stop(mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = rustix::process::Pid::from_raw(id.unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("prometheus ends").unwrap();
        assert!(status.success(), "prometheus ended with {status}");
    }
}
