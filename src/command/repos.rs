//! `penstock repos`: every repo held, one JSON object a line.

use super::{Exit, Failure, ReposArgs};
use crate::config::Config;

/// Prints the repos, in the order of their DIDs.
pub(super) async fn run(_config: Config, _args: ReposArgs) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "this command is not built yet"))
}
