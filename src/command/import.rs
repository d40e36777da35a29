//! `penstock import`: takes a full dump into the store.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::dump::in_use;
use super::progress::Progress;
use super::{Exit, Failure, ImportArgs, storage};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, VerifyCids};
use crate::decode::time::format_datetime;
use crate::dump::{ImportError, ImportOptions, Imported, import};
use crate::ledger::claims::Cut;

/// The file is read in pieces of this size.
const IN: usize = 1 << 20;

/// Imports a file, or standard input; makes the store where there is none.
pub(super) async fn run(config: Config, args: ImportArgs) -> Result<Exit, Failure> {
    let input = open(&args.file)?;
    let store = storage::open_alone(&config).await.map_err(in_use)?;
    let mut progress = Progress::new(false);
    let options = ImportOptions {
        now: SystemClock.now_micros(),
        verify_cids: config.verify.cids != VerifyCids::None,
    };
    let mut show = |line| progress.show(|| format!("{line} lines imported"));
    let imported = import(&store, input, options, &mut show).await;
    progress.clear();
    let closed = store.close().await;
    let imported = imported.map_err(|error| failure(&args.file, error))?;
    closed?;
    report(&mut progress, &imported);
    Ok(Exit::Done)
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(IN, std::io::stdin())));
    }
    let file = File::open(path).map_err(|error| {
        let message = format!("the dump {}: {error}", path.display());
        Failure::new(Exit::Failed, message)
    })?;
    Ok(Box::new(BufReader::with_capacity(IN, file)))
}

fn report(progress: &mut Progress, imported: &Imported) {
    for cut in &imported.cuts {
        progress.say(&not_claimed(cut));
    }
    let Imported { counts, facts, .. } = imported;
    let seconds = progress.seconds();
    progress.say(&format!("imported {counts} ({facts} claimed) in {seconds}"));
}

fn not_claimed(cut: &Cut) -> String {
    let hours = cut.to_time.saturating_sub(cut.from_time) as f64 / 3.6e9;
    format!(
        "not claimed of {}, generation {}: behind {} ({}) up to {} ({}), {hours:.1} hours, for {} of 256 slots: it is read from \
         the stream again",
        cut.relay,
        cut.generation,
        cut.from_seq,
        format_datetime(cut.from_time),
        cut.to_seq,
        format_datetime(cut.to_time),
        cut.slots.len()
    )
}

fn failure(file: &Path, error: ImportError) -> Failure {
    let message = format!("{}: {error}", file.display());
    let exit = match error {
        ImportError::Store { error, .. } => Failure::from(error).exit(),
        _ => Exit::Failed,
    };
    Failure::new(exit, message)
}
