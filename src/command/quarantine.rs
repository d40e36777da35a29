//! `penstock quarantine`: what could not be taken in.

use super::{Exit, Failure, QuarantineCommand};
use crate::config::Config;

/// Lists, shows or retries.
pub(super) async fn run(_config: Config, _command: QuarantineCommand) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "this command is not built yet"))
}
