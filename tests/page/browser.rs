//! Debian's chromium, driven by its chromedriver.

use std::io::Write;
use std::ops::Deref;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities;
use thirtyfour::{By, ChromeCapabilities, LoggingPrefsLogLevel, WebDriver};
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
    window: WebDriver,
    group: Option<Pid>,
    _driver: Child,
    /// chromedriver says no more than a pipe holds, but it must not be closed.
    _said: Lines<BufReader<ChildStdout>>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one, with an empty profile; `None` where chromium is not installed.
    pub async fn open(test: &str, look: Look) -> Option<Self> {
        // The client of the driver panics without a provider; a second choice is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let profile = tempfile::tempdir().expect("a temporary folder");
        let Some((driver, said, port)) = start(&profile).await else {
            skip(test);
            return None;
        };
        let id = driver.id().and_then(|id| i32::try_from(id).ok());
        let wishes = wishes(&profile, look).expect("capabilities");
        let window = WebDriver::new(format!("http://127.0.0.1:{port}"), wishes).await;
        Some(Self {
            window: window.expect("chromium starts"),
            group: id.and_then(Pid::from_raw),
            _driver: driver,
            _said: said,
            _profile: profile,
        })
    }

    /// The text of the first element that a selector finds; empty where there is none.
    pub async fn text(&self, selector: &str) -> String {
        match self
            .find_all(By::Css(selector))
            .await
            .expect("a window")
            .first()
        {
            // One that was replaced meanwhile is looked for again.
            Some(element) => element.text().await.unwrap_or_default(),
            None => String::new(),
        }
    }

    /// What an expression of JavaScript gives.
    pub async fn value(&self, expression: &str) -> Value {
        let given = self
            .execute(format!("return {expression}"), Vec::new())
            .await;
        given.expect("a value").json().clone()
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
        let element = self.find(By::Css(selector)).await.expect(selector);
        element.click().await.expect("a click");
    }

    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.find(By::Css(selector)).await.expect(selector);
        element.send_keys(text).await.expect("keys");
    }

    /// What the browser complained of since the last time: blocked scripts and styles, errors of the script, failed requests.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.browser_log().await.expect("the browser's log");
        let severe = log.into_iter().filter(|entry| entry.level == "SEVERE");
        severe.map(|entry| entry.message).collect()
    }
}

impl Deref for Browser {
    type Target = WebDriver;

    fn deref(&self) -> &WebDriver {
        &self.window
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
    let port = timeout(PATIENCE, reading)
        .await
        .expect("chromedriver starts");
    Some((driver, said, port.expect("a port")))
}

fn wishes(profile: &TempDir, look: Look) -> thirtyfour::error::WebDriverResult<ChromeCapabilities> {
    let mut wishes = ChromeCapabilities::new();
    let folder = format!("--user-data-dir={}", profile.path().display());
    for argument in [
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
        "--window-size=1100,1500",
        "--force-device-scale-factor=1",
        &folder,
    ] {
        wishes.add_arg(argument)?;
    }
    wishes.set_browser_log_level(LoggingPrefsLogLevel::All)?;
    match look {
        Look::Desk => {}
        Look::Phone => {
            let metrics = json!({"width": 360, "height": 740, "pixelRatio": 2.0, "mobile": true, "touch": true});
            wishes.add_experimental_option("mobileEmulation", json!({"deviceMetrics": metrics}))?;
        }
        Look::NoScript => {
            let off = json!({"profile.managed_default_content_settings.javascript": 2});
            wishes.add_experimental_option("prefs", off)?;
        }
    }
    Ok(wishes)
}

fn skip(test: &str) {
    let message =
        format!("SKIPPED {test}: it needs chromium and chromedriver (Debian: chromium-driver)\n");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    // Around the harness, which hides what passing tests print.
    let _ = std::io::stderr().write_all(message.as_bytes());
}
