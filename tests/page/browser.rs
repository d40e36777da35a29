//! Debian's chromium, driven by its chromedriver. WebDriver is a dozen requests in JSON, which are sent here as they are: of the
//! crates for it one turns on features of `serde_json` for the whole workspace, and the other brings two dozen more.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use data_encoding::BASE64;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longer than anything that ends well takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who looks at the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A wide window.
    Desk,
    /// A telephone.
    Phone,
    /// A browser that runs no scripts.
    NoScript,
}

/// A browser with one window; all its processes are gone once this is dropped.
pub struct Browser {
    client: reqwest::Client,
    /// The URL of the session.
    session: String,
    group: Option<Pid>,
    _driver: Child,
    /// chromedriver says no more than a pipe holds, but it must not be closed.
    _said: Lines<BufReader<ChildStdout>>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one, with an empty profile; `None` where chromium is not installed.
    pub async fn open(test: &str, look: Look) -> Option<Self> {
        // The client panics without a provider; a second choice is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let profile = tempfile::tempdir().expect("a temporary folder");
        let Some((driver, said, port)) = start(&profile).await else {
            skip(test);
            return None;
        };
        let wishes = wishes(profile.path(), look);
        let id = driver.id().and_then(|id| i32::try_from(id).ok());
        let mut browser = Self {
            client: reqwest::Client::new(),
            session: format!("http://127.0.0.1:{port}/session"),
            group: id.and_then(Pid::from_raw),
            _driver: driver,
            _said: said,
            _profile: profile,
        };
        let wishes = json!({"capabilities": {"alwaysMatch": wishes}});
        let begun = browser.post("", &wishes).await;
        let id = begun["sessionId"].as_str().expect("a session");
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    /// What the driver answers to a command; an error is the test's end.
    async fn post(&self, command: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}{command}", self.session));
        let answer = request.json(body).timeout(PATIENCE).send().await;
        let answer = answer.expect("chromedriver answers");
        let is_well = answer.status().is_success();
        let mut told: Value = answer.json().await.expect("JSON");
        assert!(is_well, "{command} {body}: {told}");
        told["value"].take()
    }

    async fn get(&self, command: &str) -> Value {
        let request = self.client.get(format!("{}{command}", self.session));
        let answer = request.timeout(PATIENCE).send().await;
        let mut told: Value = answer.expect("an answer").json().await.expect("JSON");
        told["value"].take()
    }

    /// The first element that a selector finds, as a part of commands.
    async fn element(&self, selector: &str) -> Option<String> {
        let by = json!({"using": "css selector", "value": selector});
        let found = self.post("/elements", &by).await;
        // An element is an object of one field, whose value is its id.
        let id = found.get(0)?.as_object()?.values().next()?.as_str()?;
        Some(format!("/element/{id}"))
    }

    pub async fn open_page(&self, url: &str) {
        self.post("/url", &json!({"url": url})).await;
    }

    pub async fn title(&self) -> Value {
        self.get("/title").await
    }

    /// The text that is shown of the first element that a selector finds; empty where there is none.
    pub async fn text(&self, selector: &str) -> String {
        let Some(element) = self.element(selector).await else {
            return String::new();
        };
        // One that was replaced meanwhile has none.
        let text = self.get(&format!("{element}/text")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// What an expression of JavaScript gives.
    pub async fn value(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return {expression}"), "args": []});
        self.post("/execute/sync", &script).await
    }

    /// Waits until an element has a text that is right, and gives that.
    pub async fn until(&self, selector: &str, is_right: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let waiting = async {
            let mut ticks = interval(Duration::from_millis(50));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                last = self.text(selector).await;
                if is_right(&last) {
                    return last.clone();
                }
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        match waited {
            Ok(text) => text,
            Err(_) => panic!("{selector} stays {last:?}"),
        }
    }

    /// Waits until a selector finds something.
    pub async fn until_there(&self, selector: &str) {
        self.until(selector, |text| !text.is_empty()).await;
    }

    /// Waits until a selector finds nothing that is shown.
    pub async fn until_gone(&self, selector: &str) {
        self.until(selector, str::is_empty).await;
    }

    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await.expect(selector);
        self.post(&format!("{element}/click"), &json!({})).await;
    }

    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector).await.expect(selector);
        let text = json!({"text": text});
        self.post(&format!("{element}/value"), &text).await;
    }

    /// What a dialogue asks.
    pub async fn question(&self) -> String {
        self.get("/alert/text").await.to_string()
    }

    pub async fn answer(&self, yes: bool) {
        let command = if yes {
            "/alert/accept"
        } else {
            "/alert/dismiss"
        };
        self.post(command, &json!({})).await;
    }

    /// Keeps a picture of the window.
    pub async fn picture(&self, path: &Path) {
        let picture = self.get("/screenshot").await;
        let picture = picture.as_str().expect("a picture").as_bytes();
        let picture = BASE64.decode(picture).expect("base64");
        std::fs::write(path, picture).expect("a file");
    }

    /// What the browser complained of since the last time: blocked scripts and styles, errors of the script, failed requests.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({"type": "browser"})).await;
        let log = log.as_array().expect("a log").iter();
        let severe = log.filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Those that ended already are no matter.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Starts chromedriver and reads its port.
async fn start(profile: &TempDir) -> Option<(Child, Lines<BufReader<ChildStdout>>, u16)> {
    let started = Command::new("chromedriver")
        .arg("--port=0")
        .env("HOME", profile.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut driver = started.ok()?;
    let mut said = BufReader::new(driver.stdout.take()?).lines();
    let reading = async {
        while let Some(line) = said.next_line().await.expect("words") {
            if let Some((_, port)) = line.rsplit_once("successfully on port ") {
                return port.trim_end_matches('.').parse().ok();
            }
        }
        None
    };
    let port = timeout(PATIENCE, reading).await;
    let port = port.expect("chromedriver starts").expect("a port");
    Some((driver, said, port))
}

fn wishes(profile: &Path, look: Look) -> Value {
    let mut options = json!({"args": [
        "--headless=new",
        // As root there is no sandbox; nothing but our own page is shown.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        // Nobody else is asked for anything.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1100,1800",
        "--force-device-scale-factor=1",
        format!("--user-data-dir={}", profile.display()),
    ]});
    match look {
        Look::Desk => {}
        Look::Phone => {
            options["mobileEmulation"] = json!({
                "deviceMetrics": {"width": 360, "height": 740, "pixelRatio": 2.0, "mobile": true, "touch": true},
            });
        }
        Look::NoScript => {
            options["prefs"] = json!({"profile.managed_default_content_settings.javascript": 2});
        }
    }
    json!({
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
    })
}

fn skip(test: &str) {
    let message =
        format!("SKIPPED {test}: it needs chromium and chromedriver (Debian: chromium-driver)\n");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    // Around the harness, which hides what passing tests print.
    let _ = std::io::stderr().write_all(message.as_bytes());
}
