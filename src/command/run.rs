//! `penstock run`: the daemon.

use super::{Exit, Failure};
use crate::config::Config;

/// Runs until it is told to stop.
pub(super) async fn run(_config: Config) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "this command is not built yet"))
}
