//! The full dump: all that a store holds as lines of JSON, to move it to another store or to restore it.
//!
//! ```text
//! {"type":"penstock-dump","format":1,"time":"…","version":"…","check":"…"}
//! {"type":"fact", …}          the ledger; first, so that no fact claims what was written after
//! {"type":"repair", …}        repairs that wait
//! {"type":"choice", …}        collections and repositories to skip, as operators chose them
//! {"type":"quarantine", …}    its frames, with the raw bytes in base64 unless they were dropped
//! {"type":"repo", …}          handle, status, revision, last full snapshot, floors, each with its version
//! {"type":"record", …}        each with its version, its DAG-CBOR and its JSON (if kept) in base64
//! {"type":"end", …}           how many lines of each there are
//! ```
//!
//! The check of a line is chained with that of the line before ([`Seal`]), so that damage, a missing line and a line too
//! many are found before anything of them is written. Versions travel with everything and writes commute: an import may be
//! repeated, and replaces nothing newer.
//!
//! A dump has no markers of what was deleted. What this means for the ledger is said in [`crate::ledger::claims`]; and it is
//! why a dump older than [`AGE_MAX`] is taken into an empty store only, and why facts are written last, after all else.

mod export;
mod import;
mod line;
mod read;
mod seal;
mod spill;
mod work;

pub use export::{ExportError, export};
pub use import::{ImportError, ImportOptions, Imported, import};
pub use seal::Seal;

use serde::{Deserialize, Serialize};

use crate::store::ChoiceKind;

/// The format that this build writes and reads.
pub const FORMAT: u32 = 1;
/// Age (microseconds) up to which a dump is taken into a store that holds something: markers of deletes live longer.
pub const AGE_MAX: u64 = crate::store::LONGEST_REPLAY.as_secs() * 1_000_000;
/// What operators chose. The other lists belong to jobs, which a dump has not, and to one daemon.
const CHOICES: [ChoiceKind; 2] = [ChoiceKind::Collection, ChoiceKind::OptOut];
/// Longest line in bytes.
pub const LINE_MAX: usize = 64 << 20;

/// How many lines of each type there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Facts.
    pub facts: u64,
    /// Repairs.
    pub repairs: u64,
    /// Choices; there are none in the dumps of older builds.
    #[serde(default)]
    pub choices: u64,
    /// Rows of the quarantine.
    pub quarantine: u64,
    /// Repositories.
    pub repos: u64,
    /// Records.
    pub records: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            facts,
            repairs,
            choices,
            quarantine,
            repos,
            records,
        } = self;
        let choices = match choices {
            0 => String::new(),
            choices => format!(" {choices} choices,"),
        };
        write!(
            f,
            "{records} records, {repos} repos, {quarantine} quarantined frames, {repairs} repairs,{choices} {facts} facts"
        )
    }
}
