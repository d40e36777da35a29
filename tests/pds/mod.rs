//! A Personal Data Server on which people post, like, edit, delete, rename, hide and leave, and Penstock beside it.

mod compare;
mod daemon;
#[allow(dead_code, reason = "once is enough, whatever the store is")]
pub mod jobs;
#[allow(dead_code, reason = "once is enough, whatever the store is")]
pub mod moved;
mod server;
mod story;
#[allow(dead_code, reason = "once is enough, whatever the store is")]
pub mod window;
mod world;

use std::path::Path;

use daemon::{Daemon, Penstock};
use server::Pds;
pub use server::installation;
use world::World;

/// The other test compares with the world's notes: they are the truth as the PDS tells it.
#[allow(dead_code, reason = "once is enough, whatever the store is")]
pub async fn the_pds_serves_what_was_written(installation: &Path) {
    let mut world = World::new(Pds::start(installation).await);
    story::first(&mut world).await;
    compare::pds_agrees(&world).await;
    story::second(&mut world).await;
    compare::pds_agrees(&world).await;
    story::third(&mut world).await;
    compare::pds_agrees(&world).await;
    world.pds.stop().await;
}

/// Follows what people do on the PDS in the folder of `installation`, into the empty store that the variables choose.
pub async fn penstock_holds_what_the_pds_says(
    installation: &Path,
    variables: Vec<(&'static str, String)>,
) {
    let mut world = World::new(Pds::start(installation).await);
    let penstock = Penstock::of(&world.pds, variables);

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
