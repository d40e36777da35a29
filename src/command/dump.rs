//! `penstock dump`: every record held, one JSON object a line.

use super::{DumpArgs, Exit, Failure};
use crate::config::Config;

/// Prints the records, in the order of (did, collection, rkey).
pub(super) async fn run(_config: Config, _args: DumpArgs) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "this command is not built yet"))
}
