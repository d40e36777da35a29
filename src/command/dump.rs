//! `penstock dump`: every record held, one JSON object a line; with `--full` all that `penstock import` takes.

use std::io;

use super::progress::Progress;
use super::source::{Source, print_all, stdout};
use super::{DumpArgs, Exit, Failure, storage};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::dump::{Counts, ExportError, export};
use crate::store::StoreError;

/// Prints the records, in the order of (did, collection, rkey), page by page: what changes meanwhile may show or not.
pub(super) async fn run(config: Config, args: DumpArgs) -> Result<Exit, Failure> {
    let mut query = vec![
        ("value", (!args.no_value).to_string()),
        ("active", args.active.to_string()),
    ];
    query.extend(args.did.map(|did| ("did", did)));
    query.extend(args.collection.map(|nsid| ("collection", nsid)));
    let source = Source::open(&config).await?;
    let printed = print_all(source.client(), "/admin/records", query, &mut stdout()).await;
    source.close(printed.map(|_| Exit::Done)).await
}

/// Prints the full dump. It opens the store itself: no daemon may have an embedded store open.
pub(super) async fn run_full(config: Config) -> Result<Exit, Failure> {
    let opened = storage::open_existing(&config).await.map_err(in_use)?;
    let store = opened.ok_or_else(|| {
        let name = storage::name(&config);
        Failure::new(Exit::Failed, format!("there is no store in {name}"))
    })?;
    let mut progress = Progress::new(true);
    let now = SystemClock.now_micros();
    let mut show = |counts: &Counts| progress.show(|| format!("{counts} dumped"));
    let dumped = export(&store, stdout(), now, &mut show).await;
    progress.clear();
    let closed = store.close().await;
    let counts = dumped?;
    closed?;
    let seconds = progress.seconds();
    progress.say(&format!("dumped {counts} in {seconds}"));
    Ok(Exit::Done)
}

/// What to do where a process has the store open.
pub(super) fn in_use(error: StoreError) -> Failure {
    let StoreError::Locked(dir) = &error else {
        return error.into();
    };
    let message = format!(
        "the store in {dir} is in use by another process: stop the daemon first ('dump --full' and 'import' open the store \
         themselves)"
    );
    Failure::new(Exit::Later, message)
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => error.into(),
            // Unlike that of a listing, a reader that goes away early has no use for what it got.
            ExportError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::new(
                Exit::Failed,
                "whoever reads the dump went away: it is not whole",
            ),
            error => Self::new(Exit::Failed, error.to_string()),
        }
    }
}
