//! Real input that no one here wrote: a Personal Data Server (the reference implementation, run by Node) on which people post,
//! like, edit, delete, rename, hide and leave. Penstock follows it, and must then hold and say what the PDS does.
//!
//! `tests/pds/install` fetches the PDS at the first run, which needs Node 20 or later, npm and the network; without them the
//! tests say that they are skipped (with `CI=true` they fail). `tests/pds/serve.mjs` runs it; it reaches nothing beyond
//! loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "pds/compare.rs"]
mod compare;
#[path = "pds/daemon.rs"]
mod daemon;
#[path = "pds/server.rs"]
mod server;
#[path = "pds/story.rs"]
mod story;
#[path = "pds/world.rs"]
mod world;

use daemon::{Daemon, Penstock};
use server::{Pds, installation};
use world::World;

/// The other test compares with the world's notes: they are the truth as the PDS tells it.
#[tokio::test]
async fn the_pds_serves_what_was_written() {
    let Some(installation) = installation("the_pds_serves_what_was_written") else {
        return;
    };
    let mut world = World::new(Pds::start(installation).await);
    story::first(&mut world).await;
    compare::pds_agrees(&world).await;
    story::second(&mut world).await;
    compare::pds_agrees(&world).await;
    story::third(&mut world).await;
    compare::pds_agrees(&world).await;
    world.pds.stop().await;
}

#[tokio::test]
async fn penstock_holds_what_the_pds_says() {
    let Some(installation) = installation("penstock_holds_what_the_pds_says") else {
        return;
    };
    let mut world = World::new(Pds::start(installation).await);
    let penstock = Penstock::of(&world.pds);

    story::first(&mut world).await;
    let mut daemon = penstock.start();
    all_agrees(&world, &penstock, &mut daemon, "all before the first start").await;

    story::second(&mut world).await;
    all_agrees(&world, &penstock, &mut daemon, "all while it follows").await;

    daemon.stop().await;
    assert_eq!(
        compare::not_caught_up(&world, &penstock).await,
        [""; 0],
        "without a daemon"
    );
    compare::dump_agrees(&world, &penstock).await;

    story::third(&mut world).await;
    let mut daemon = penstock.start();
    all_agrees(&world, &penstock, &mut daemon, "all while it was stopped").await;
    daemon.stop().await;
    world.pds.stop().await;
}

async fn all_agrees(world: &World, penstock: &Penstock, daemon: &mut Daemon, what: &str) {
    compare::pds_agrees(world).await;
    daemon
        .until(what, async || compare::not_caught_up(world, penstock).await)
        .await;
    compare::dump_agrees(world, penstock).await;
    compare::xrpc_agrees(world, &penstock.xrpc()).await;
}
