//! The status page as it is served: to whom it shows what, its headers, and that nothing in it is markup but its own.

mod http;

use std::sync::Arc;

use axum::http::Method;
use data_encoding::BASE64;
use http::jobs::FakeJobs;
use http::{ALICE, Answer, Site};
use penstock::api::Tokens;
use penstock::backfill::jobs::{JobRequest, Jobs};
use penstock::config::Worker;
use sha2::{Digest, Sha256};

/// Text that a page which does not escape would take for markup.
const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&";

async fn jobs() -> Arc<FakeJobs> {
    let jobs = Arc::new(FakeJobs::default());
    let request = JobRequest {
        dids: vec![ALICE.to_owned()],
        ..JobRequest::default()
    };
    jobs.start(request, false).await.unwrap();
    jobs
}

async fn page(site: &Site, token: Option<&str>) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer
        .iter()
        .map(|bearer| ("authorization", bearer.as_str()))
        .collect();
    site.call(Method::GET, "/", &headers, "").await
}

/// What is between two texts.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

#[tokio::test]
async fn the_browser_is_told_to_run_nothing_else() {
    let site = Site::strangers(Tokens::new(Some("adm"), None)).await;
    let answer = page(&site, None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-frame-options"), "DENY");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    let policy = answer.header("content-security-policy");
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "no {rule:?} in {policy}");
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
    // The hashes are those of what is in the page.
    for (rule, element) in [("script-src", "script"), ("style-src", "style")] {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        assert_eq!(answer.text.matches(&open).count(), 1);
        let hash = BASE64.encode(&Sha256::digest(between(&answer.text, &open, &close)));
        assert!(
            policy.contains(&format!("{rule} 'sha256-{hash}'")),
            "{policy}"
        );
    }
    // Nothing is loaded from elsewhere, and nothing runs or is styled from an attribute.
    for strange in [
        "http://",
        "https://",
        "src=",
        " style=",
        " onclick=",
        "javascript:",
    ] {
        assert!(!answer.text.contains(strange), "{strange}");
    }
}

#[tokio::test]
async fn who_has_no_token_sees_numbers_only() {
    let tokens = || Some(Tokens::new(Some("adm"), Some("rd")));
    let site = Site::working(jobs().await, tokens()).await;
    let stranger = page(&site, None).await;
    assert!(stranger.text.contains("data-access=\"numbers\""));
    assert!(!stranger.text.contains(ALICE) && !stranger.text.contains("id=\"timeline\""));
    assert!(!stranger.text.contains("id=\"start\""));

    let reader = page(&site, Some("rd")).await;
    assert!(reader.text.contains("data-access=\"ledger\""));
    assert!(reader.text.contains(ALICE) && reader.text.contains("id=\"timeline\""));
    assert!(!reader.text.contains("id=\"start\"") && !reader.text.contains("data-cancel="));

    let admin = page(&site, Some("adm")).await;
    assert!(admin.text.contains("data-access=\"all\"") && admin.text.contains(ALICE));
    assert!(admin.text.contains("id=\"start\"") && admin.text.contains("data-cancel=\"1\""));

    let unknown = page(&site, Some("guess")).await;
    unknown.is_error(401, "Unauthorized", "not known");
    for _ in 0..10 {
        page(&site, Some("guess")).await;
    }
    page(&site, Some("guess"))
        .await
        .is_error(429, "TooManyRequests", "");

    let trusted = Site::working(jobs().await, None).await;
    assert!(
        page(&trusted, None)
            .await
            .text
            .contains("data-cancel=\"1\"")
    );
    let none = Site::strangers(Tokens::default()).await;
    let disabled = page(&none, Some("adm")).await;
    assert!(
        disabled.text.contains("data-access=\"disabled\"") && disabled.text.contains("ADMIN_TOKEN")
    );
}

#[tokio::test]
async fn what_is_shown_is_escaped() {
    let jobs = jobs().await;
    jobs.change(1, |job| {
        job.did = Some(HOSTILE.to_owned());
        job.error = Some(HOSTILE.to_owned());
        job.id = HOSTILE.to_owned();
    });
    let site = Site::working(jobs, None).await;
    site.status.fail(HOSTILE);
    let answer = page(&site, None).await;
    assert!(!answer.text.contains("<img") && !answer.text.contains("<script>alert"));
    assert!(
        answer.text.contains("Not ready: &#60;/script&#62;"),
        "{}",
        answer.text
    );
    // Numbers come from the text of the metrics, whose labels are not ours: relays name themselves.
    let label = "penstock_relay_connected{relay=\"<img src=x>\"} 1\npenstock_quarantined_total{reason=\"</table>\"} 2\n";
    let metered = Site::metered(label).await;
    let text = page(&metered, None).await.text;
    assert!(
        text.contains("&#60;img src=x&#62;") && text.contains("&#60;/table&#62;"),
        "{text}"
    );
    assert!(!text.contains("<img"));
}

#[tokio::test]
async fn the_numbers_are_in_the_page_itself() {
    let metrics = "penstock_relay_lag_seconds 0.42\npenstock_watermark_lag_seconds 75\n\
        penstock_watermark_seq{stream=\"live\"} 1234567\npenstock_ledger_missing_seconds 7200\n\
        penstock_backfill_window_progress_ratio 0.5\npenstock_backfill_worker 1\n\
        penstock_pipeline_lane_queued_frames{lane=\"10\"} 3\npenstock_pipeline_lane_queued_frames{lane=\"9\"} 8\n\
        penstock_quarantined_total{reason=\"bad_cbor\"} 5\npenstock_repairs_pending{reason=\"sync\"} 6\n\
        penstock_store_disk_bytes 1536\npenstock_backfill_jobs{status=\"running\"} 2\n";
    let site = Site::metered(metrics).await;
    let text = page(&site, None).await.text;
    for shown in [
        "id=\"lag\">0.4 s<",
        "id=\"durable-lag\">1 min 15 s<",
        "id=\"missing-time\">2 h 0 min<",
        "<td>1,234,567</td>",
        "value=\"50.0\"",
        "<td>this worker</td>",
        "Frames since the start: bad_cbor</th><td>5</td>",
        "Repairs that wait: sync</th><td>6</td>",
        "On disk</th><td>1.5 KiB</td>",
        "Jobs: running</th><td>2</td>",
        "worker 0 of 1",
        "Ready.",
        "http-equiv=\"refresh\"",
    ] {
        assert!(text.contains(shown), "no {shown:?} in {text}");
    }
    let lanes = between(&text, "id=\"lanes\"", "</table>");
    let (nine, ten) = (
        lanes.find("lane 9<").unwrap(),
        lanes.find("lane 10<").unwrap(),
    );
    assert!(nine < ten, "lanes are in order");
    // A worker that has not begun yet has a page too.
    let empty = Site::metered("").await;
    assert_eq!(page(&empty, None).await.status, 200);
}

#[tokio::test]
async fn another_worker_says_whom_to_ask_for_jobs() {
    let site = Site::elsewhere(Worker { id: 1, count: 2 }).await;
    let text = page(&site, None).await.text;
    assert!(text.contains("id=\"elsewhere\"") && text.contains("ask worker 0"));
    assert!(text.contains("Worker 1") && !text.contains("id=\"start\""));
}
