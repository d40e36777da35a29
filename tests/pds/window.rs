//! The window over a real PDS: what was written before the first start and while Penstock was stopped, and what the PDS can't serve.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::compare;
use super::daemon::{Daemon, Penstock};
use super::server::Pds;
use super::story;
use super::world::World;

const POST: &str = "app.bsky.feed.post";

fn penstock(pds: &Pds, more: &[(&'static str, &str)]) -> Penstock {
    let mut variables = vec![
        ("PENSTOCK_STORE__EMBEDDED__MIN_FREE", "16MiB".to_owned()),
        ("PENSTOCK_BACKFILL__REREAD", "200ms".to_owned()),
    ];
    variables.extend(
        more.iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    Penstock::of(pds, variables)
}

/// All is caught up, and every second of the window is held.
pub async fn the_window_is_whole_after_a_stop(installation: &Path) {
    let mut world = World::new(Pds::start(installation).await);
    let window = [("PENSTOCK_RELAY__START", "head"), ("BACKFILL_DAYS", "1")];
    let penstock = penstock(&world.pds, &window);
    story::first(&mut world).await;
    let mut daemon = penstock.start();
    super::all_agrees(&world, &penstock, &mut daemon, "all before the start").await;
    story::second(&mut world).await;
    super::all_agrees(&world, &penstock, &mut daemon, "all while it follows").await;
    daemon.stop().await;

    story::third(&mut world).await;
    let before = penstock.gaps().await["tails"][0]["seq"].as_u64();
    let mut daemon = penstock.start();
    super::all_agrees(&world, &penstock, &mut daemon, "all while it was stopped").await;
    let whole = async || {
        let gaps = penstock.gaps_now().await;
        let goes_on = gaps["tails"][0]["seq"].as_u64() > before;
        match goes_on && gaps["complete"] == true && gaps["days"] == 1.0 {
            true => Vec::new(),
            false => vec![gaps.to_string()],
        }
    };
    daemon.until("a whole window", whole).await;
    daemon.stop().await;
    let gaps = penstock.gaps().await;
    assert_eq!(gaps["missing"], json!([]), "without a daemon");
    assert_eq!(gaps["held"][0]["slots"], "0-255", "{gaps:#}");
    world.pds.stop().await;
}

/// A PDS says `OutdatedCursor`, and goes on with what it still has.
pub async fn what_the_pds_no_longer_serves_is_said(installation: &Path) {
    let serves = Duration::from_secs(8);
    let mut world = World::new(Pds::start_as(installation, 0, serves).await);
    let penstock = penstock(&world.pds, &[]);
    let mut daemon = penstock.start();
    world.join("alice").await;
    post(&mut world, "alice", "seen").await;
    caught_up(&world, &penstock, &mut daemon).await;
    daemon.stop().await;
    let tail = penstock.gaps().await["tails"][0]["seq"].clone();

    for _ in 0..3 {
        post(&mut world, "alice", "never seen").await;
    }
    tokio::time::sleep(serves).await;
    let mut daemon = penstock.start();
    let lost = async || {
        // Nobody can say what is lost while nothing is new.
        post(&mut world, "alice", "new").await;
        let gaps = penstock.gaps_now().await;
        match gaps["missing"][0]["state"] == "lost" {
            true => Vec::new(),
            false => vec![gaps.to_string()],
        }
    };
    daemon.until("what is lost", lost).await;
    caught_up(&world, &penstock, &mut daemon).await;
    daemon.stop().await;
    let gaps = penstock.gaps().await;
    let missing = gaps["missing"].as_array().expect("a list");
    assert_eq!(missing.len(), 1, "{gaps:#}");
    assert_eq!(missing[0]["from_seq"], tail, "{gaps:#}");
    assert_eq!(
        (&missing[0]["reason"], &missing[0]["repair"]),
        (&json!("expired"), &json!(true))
    );
    world.pds.stop().await;
}

/// A PDS that lost its data counts anew, and says `FutureCursor`.
pub async fn a_pds_that_counts_anew_is_followed(installation: &Path) {
    let day = Duration::from_secs(86_400);
    let mut old = World::new(Pds::start(installation).await);
    let penstock = penstock(&old.pds, &[]);
    let mut daemon = penstock.start();
    old.join("alice").await;
    for _ in 0..20 {
        post(&mut old, "alice", "of old").await;
    }
    caught_up(&old, &penstock, &mut daemon).await;
    daemon.stop().await;
    let port = old.pds.port();
    old.pds.stop().await;

    let mut new = World::new(Pds::start_as(installation, port, day).await);
    new.join("bob").await;
    post(&mut new, "bob", "new").await;
    let mut daemon = penstock.start();
    let followed = async || {
        let gaps = penstock.gaps_now().await;
        let anew = gaps["tails"][0]["generation"] == 1;
        let known = gaps["missing"][0]["state"] == "lost";
        match anew && known {
            true => Vec::new(),
            false => vec![gaps.to_string()],
        }
    };
    daemon.until("the new numbers", followed).await;
    daemon.stop().await;
    let bob = new.account("bob").did.clone();
    let held = penstock.lines(&["dump", "--did", &bob]).await;
    assert_eq!(held.len(), 1, "{held:?}");
    let alice = penstock.lines(&["dump"]).await;
    assert_eq!(alice.len(), 21, "what was held stays");
    new.pds.stop().await;
}

async fn post(world: &mut World, name: &str, text: &str) {
    let record = json!({"$type": POST, "text": text, "createdAt": "2026-01-02T03:04:05.678Z"});
    world.create(name, POST, record).await;
}

async fn caught_up(world: &World, penstock: &Penstock, daemon: &mut Daemon) {
    let lacking = async || compare::not_caught_up(world, penstock).await;
    daemon.until("all is caught up", lacking).await;
}
