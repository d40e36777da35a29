//! `penstock repos`: every repo held, one JSON object a line.

use super::source::{Source, print_all, stdout};
use super::{Exit, Failure, ReposArgs};
use crate::config::Config;

/// Prints the repos, in the order of their DIDs; exit 1 if the one that was asked for is not held.
pub(super) async fn run(config: Config, args: ReposArgs) -> Result<Exit, Failure> {
    let source = Source::open(&config).await?;
    let query = args.did.iter().map(|did| ("did", did.clone())).collect();
    let printed = print_all(source.client(), "/admin/repos", query, &mut stdout()).await;
    let end = printed.and_then(|printed| match args.did {
        Some(did) if printed == 0 => {
            Err(Failure::new(Exit::Failed, format!("no repo {did} is held")))
        }
        _ => Ok(Exit::Done),
    });
    source.close(end).await
}
