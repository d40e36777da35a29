//! `penstock get`: one record as JSON.

use super::{Exit, Failure, GetArgs};
use crate::config::Config;

/// Prints the record; exit 1 if it is not held.
pub(super) async fn run(_config: Config, _args: GetArgs) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "this command is not built yet"))
}
