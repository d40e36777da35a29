//! The status page in a real browser: numbers change without a reload and without scripts, jobs are started, watched and
//! cancelled, on a wide window and on a telephone.
//!
//! It needs Debian's `chromium` and `chromium-driver`; without them the tests say that they are skipped (with `CI=true` they
//! fail). `PENSTOCK_BLESS=1 cargo test --test page` takes the picture of the documentation anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod browser;
#[path = "../http/mod.rs"]
mod http;
#[path = "../installed/mod.rs"]
mod installed;
mod site;

use std::path::Path;
use std::sync::Arc;

use browser::{Browser, Look};
use http::jobs::FakeJobs;
use penstock::api::{Tokens, serve_tcp};
use serde_json::{Value, json};
use site::{Site, TOKEN};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The watermark, as the page shows it.
const WATERMARK: &str = "#stream tr:nth-child(2) td";

/// Opens the page with the token given.
async fn unlock(browser: &Browser, token: &str) {
    browser.fill("#token", token).await;
    browser.click("#unlock button").await;
}

/// Starts a job and gives its id.
async fn begin(browser: &Browser, account: &str, days: &str) -> String {
    // One that is over at once is called so at once.
    let told = |text: &str| {
        text.strip_prefix("Job ")?
            .split(' ')
            .next()
            .map(str::to_owned)
    };
    let before = told(&browser.text("#said").await);
    browser.fill("#account", account).await;
    browser.fill("#days", days).await;
    browser.click("#start button").await;
    let is_new = |text: &str| told(text).is_some_and(|id| before.as_ref() != Some(&id));
    let id = told(&browser.until("#said", is_new).await).unwrap();
    browser.until_there(&format!("#job-{id}")).await;
    id
}

/// Waits until a job's row says this.
async fn job_is(browser: &Browser, id: &str, status: &str) {
    browser
        .until_there(&format!("#job-{id}[data-status={status}]"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_change_and_jobs_are_started_watched_and_cancelled() {
    let Some(browser) = Browser::open("numbers_change_and_jobs_are…", Look::Desk).await else {
        return;
    };
    let site = Site::start().await;
    browser.open_page(&site.address).await;
    assert_eq!(browser.title().await, "Penstock: worker 0 of 1");
    browser.until("#ready", |text| text == "Ready.").await;
    assert_ne!(browser.text("#lag").await, "–");

    // Its own style is in force, and this stays through all that follows: the page is never loaded again.
    browser.value("(window.mark = 'the same page')").await;
    let display = "getComputedStyle(document.querySelector('.headline')).display";
    assert_eq!(browser.value(display).await, "grid");
    let before = browser.until(WATERMARK, |text| text != "–").await;
    site.relay.publish(300);
    browser.until(WATERMARK, |text| text != before).await;

    // Who has no token sees no more.
    assert_eq!(browser.text("#jobs, #timeline, #start").await, "");
    unlock(&browser, "guess").await;
    browser
        .until("#said", |text| text.contains("not known"))
        .await;
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    let refused = browser.complaints().await;
    assert!(
        refused.iter().all(|line| line.contains("status of 401")),
        "{refused:?}"
    );
    unlock(&browser, TOKEN).await;
    browser.until_there("#jobs").await;
    assert_eq!(
        browser
            .value("sessionStorage.getItem('penstock-token')")
            .await,
        TOKEN
    );
    assert_eq!(browser.value("localStorage.length").await, 0);
    assert_eq!(browser.value("document.cookie").await, "");
    let held = "getComputedStyle(document.querySelector('#timeline rect.held')).fill";
    assert_eq!(browser.value(held).await, "rgb(45, 164, 78)");
    browser.until_there("#missing, #complete").await;
    browser.until_there("#worker-0").await;

    // A job over one repository, to its end.
    let (did, records) = site.account(0);
    let id = begin(&browser, &format!("at://{did}"), "").await;
    job_is(&browser, &id, "completed").await;
    let row = browser.text(&format!("#job-{id}")).await;
    assert!(
        row.contains(&did) && row.contains("1 of 1") && row.contains(&format!(" {records} ")),
        "{row}"
    );
    browser
        .until("#said", |text| {
            text.contains(&id) && text.contains("is over: completed")
        })
        .await;
    let (did, _) = site.account(1);
    let id = begin(&browser, &did, "30.5").await;
    job_is(&browser, &id, "completed").await;
    assert!(
        browser
            .text(&format!("#job-{id}"))
            .await
            .contains("30.5 days")
    );

    // Another one hangs at its host, and is cancelled.
    let id = begin(&browser, &site.stalled(), "").await;
    job_is(&browser, &id, "running").await;
    if std::env::var_os("PENSTOCK_BLESS").is_some() {
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status-page.png");
        browser.value("scrollTo(0, 0)").await;
        browser.picture(&picture).await;
    }
    let cancel = format!("[data-cancel='{id}']");
    browser.click(&cancel).await;
    browser.answer(false).await;
    browser.click(&cancel).await;
    assert!(browser.question().await.contains(&id));
    browser.answer(true).await;
    job_is(&browser, &id, "cancelled").await;
    browser.until_gone(&cancel).await;
    browser
        .until("#said", |text| text.contains("is over: cancelled"))
        .await;

    // What is wrong is said where it was asked.
    browser.fill("#account", "no handle").await;
    browser.click("#start button").await;
    browser
        .until("#said", |text| text.contains("is not a handle"))
        .await;
    let refused = browser.complaints().await;
    assert!(
        refused.iter().all(|line| line.contains("status of 400")),
        "{refused:?}"
    );

    browser.click("#forget").await;
    browser.until_gone("#jobs").await;
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    assert_eq!(browser.value("window.mark").await, "the same page");

    // Numbers that are old are called so.
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    site.daemon.stop().await;
    browser.until("#stale", |text| text.contains("old")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_telephone_shows_all_of_it() {
    let Some(browser) = Browser::open("a_telephone_shows_all_of_it", Look::Phone).await else {
        return;
    };
    let site = Site::start().await;
    browser.open_page(&site.address).await;
    browser.until("#ready", |text| text == "Ready.").await;
    unlock(&browser, TOKEN).await;
    browser.until_there("#jobs").await;
    let (did, _) = site.account(2);
    let id = begin(&browser, &did, "1").await;
    job_is(&browser, &id, "completed").await;
    // Nothing but tables that scroll by themselves is wider than the screen, and fingers find what can be pressed.
    let widths = browser
        .value("[innerWidth, document.documentElement.scrollWidth]")
        .await;
    assert_eq!(widths, json!([360, 360]));
    let small = "[...document.querySelectorAll('button, input')].filter(e => e.checkVisibility() && \
        e.getBoundingClientRect().height < (e.closest('td') ? 32 : 44)).map(e => e.outerHTML)";
    assert_eq!(browser.value(small).await, json!([]));
    let unnamed =
        "[...document.querySelectorAll('input')].filter(e => !e.labels.length).map(e => e.id)";
    assert_eq!(browser.value(unnamed).await, json!([]));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    site.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_change_without_scripts() {
    let Some(browser) = Browser::open("numbers_change_without_scripts", Look::NoScript).await
    else {
        return;
    };
    let site = Site::start().await;
    browser.open_page(&site.address).await;
    browser.until("#ready", |text| text == "Ready.").await;
    browser
        .until("noscript p", |text| text.contains("Without JavaScript"))
        .await;
    let before = browser.until(WATERMARK, |text| text != "–").await;
    site.relay.publish(300);
    browser.until(WATERMARK, |text| text != before).await;
    // What needs scripts is not there.
    assert_eq!(browser.text("#unlock, #start, button").await, "");
    site.daemon.stop().await;
}

/// Handles are resolved by the daemon (`cargo test --test identity` shows how); here one is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_started_by_a_handle() {
    let Some(browser) = Browser::open("a_job_is_started_by_a_handle", Look::Desk).await else {
        return;
    };
    let jobs = Arc::new(FakeJobs::default());
    let site = http::Site::working(jobs.clone(), Some(Tokens::new(Some("adm"), None))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    tokio::spawn(serve_tcp(listener, site.router.clone(), stop));

    browser.open_page(&address).await;
    unlock(&browser, "adm").await;
    browser.until_there("#start button").await;
    browser.fill("#account", "bob.example.com").await;
    browser.click("#start button").await;
    browser
        .until("#said", |text| {
            text.contains("bob.example.com names no DID")
        })
        .await;
    browser
        .value("(document.getElementById('account').value = '')")
        .await;
    let id = begin(&browser, "@alice.example.com", "2").await;
    let (request, _) = jobs.asked();
    assert_eq!(
        (request.dids, request.days),
        (vec![http::ALICE.to_owned()], Some(2.0))
    );
    assert!(
        browser
            .text(&format!("#job-{id}"))
            .await
            .contains(http::ALICE)
    );
    let typed: Value = browser
        .value("document.getElementById('account').value")
        .await;
    assert_eq!(typed, "", "the form is empty again");
}
