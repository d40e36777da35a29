//! `penstock dump`: every record held, one JSON object a line.

use super::source::{Source, stdout};
use super::{DumpArgs, Exit, Failure};
use crate::config::Config;

/// Prints the records, in the order of (did, collection, rkey), page by page: what changes meanwhile may show or not.
pub(super) async fn run(config: Config, args: DumpArgs) -> Result<Exit, Failure> {
    let mut query = vec![
        ("value", (!args.no_value).to_string()),
        ("active", args.active.to_string()),
    ];
    query.extend(args.did.map(|did| ("did", did)));
    query.extend(args.collection.map(|nsid| ("collection", nsid)));
    let source = Source::open(&config).await?;
    let printed = source
        .print_all("/admin/records", query, &mut stdout())
        .await;
    source.close(printed.map(|_| Exit::Done)).await
}
