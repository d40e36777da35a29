//! Reads the lines of a dump, each within a bound, checks their chain and order, and hands on what they say to write.

use std::io::{BufRead, Read};

use tokio::sync::mpsc;

use super::import::{ImportError, ImportOptions};
use super::line::{Header, Line};
use super::spill::Spill;
use super::work::{Gathering, Job};
use super::{AGE_MAX, Counts, FORMAT, LINE_MAX, Seal};
use crate::decode::REV_AHEAD_MICROS;
use crate::decode::time::{format_datetime, parse_datetime};
use crate::store::Fact;

/// Most facts of a dump; they are held in memory until all else is durable.
const FACTS_MAX: usize = 1_000_000;
/// Memory that the buffer of lines keeps behind a long one.
const KEPT_BYTES: usize = 4 << 20;

/// What a whole dump said beside what was handed on.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) facts: Vec<Fact>,
    pub(super) counts: Counts,
    /// Of the records, whatever their order: [`super::work::record_sum`].
    pub(super) sum: u64,
    pub(super) completes: Spill,
}

/// Reads a dump to its end. A closed channel ends it early, without a mistake: who closed it knows why.
pub(super) fn read(
    input: impl BufRead,
    options: &ImportOptions,
    store_is_empty: bool,
    jobs: mpsc::Sender<Job>,
) -> Result<Taken, ImportError> {
    let mut lines = Lines {
        input,
        line: Vec::new(),
        number: 0,
        seal: Seal::default(),
    };
    let at = |line, what| ImportError::Line { line, what };
    let first = lines
        .next()?
        .ok_or_else(|| at(1, "there is nothing in it".to_owned()))?;
    let Ok(Line::Header(header)) = Line::read(first) else {
        let what = "this is no full dump, as 'penstock dump --full' prints it".to_owned();
        return Err(at(1, what));
    };
    check_header(&header, options.now, store_is_empty)?;
    lines.check().map_err(|what| at(1, what))?;
    let mut gathering = Gathering::new(options.verify_cids);
    let mut taken = Taken::default();
    loop {
        let ended = || "the file ends before the dump does: it was cut off".to_owned();
        let line = lines.number + 1;
        lines.next()?.ok_or_else(|| at(line, ended()))?;
        lines.check().map_err(|what| at(line, what))?;
        let row = Line::read(&lines.line).map_err(|what| at(line, what))?;
        match row {
            Line::Header(_) => return Err(at(line, "a second dump begins".to_owned())),
            Line::Fact(_) if taken.facts.len() >= FACTS_MAX => {
                return Err(at(line, format!("more than {FACTS_MAX} facts")));
            }
            Line::Fact(fact) => {
                super::work::check_fact(&fact).map_err(|what| at(line, what))?;
                taken.counts.facts += 1;
                taken.facts.push(fact);
            }
            Line::End(counts) if counts == taken.counts => break,
            Line::End(counts) => {
                let what = format!("the dump had {counts}, but here are {}", taken.counts);
                return Err(at(line, what));
            }
            row => gathering
                .take(row, line, &mut taken)
                .map_err(|what| at(line, what))?,
        }
        for job in gathering.full() {
            if jobs.blocking_send(job).is_err() {
                return Ok(taken);
            }
        }
    }
    let line = lines.number + 1;
    if lines.next()?.is_some() {
        return Err(at(line, "something follows the end of the dump".to_owned()));
    }
    for job in gathering.rest() {
        if jobs.blocking_send(job).is_err() {
            break;
        }
    }
    Ok(taken)
}

/// Lines of an input that may be anything.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    seal: Seal,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its line feed; `None` at the end of the input.
    fn next(&mut self) -> Result<Option<&[u8]>, ImportError> {
        self.number += 1;
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES);
        let at = |what: String| ImportError::Line {
            line: self.number,
            what,
        };
        let most = LINE_MAX as u64 + 1;
        let read = self
            .input
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut self.line);
        read.map_err(|error| at(format!("it can't be read: {error}")))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.pop() != Some(b'\n') {
            let what = match self.line.len() < LINE_MAX {
                true => "the line has no end: the file was cut off".to_owned(),
                false => format!("longer than {} MiB", LINE_MAX >> 20),
            };
            return Err(at(what));
        }
        Ok(Some(&self.line))
    }

    /// Whether the line follows the one before unchanged.
    fn check(&mut self) -> Result<(), String> {
        if self.seal.holds(&self.line) {
            return Ok(());
        }
        Err("its check does not fit: it is damaged, or a line before it is missing".to_owned())
    }
}

fn check_header(header: &Header, now: u64, store_is_empty: bool) -> Result<(), ImportError> {
    let mistake = |what: String| ImportError::Line { line: 1, what };
    let Header { format, time, .. } = header;
    if *format != FORMAT {
        let version = &header.version;
        return Err(mistake(format!(
            "a dump of format {format} (made by {version}); this build reads {FORMAT}"
        )));
    }
    let made = parse_datetime(time).ok_or_else(|| mistake(format!("{time:?} is no time")))?;
    if made > now.saturating_add(REV_AHEAD_MICROS) {
        return Err(ImportError::Ahead {
            time: time.clone(),
            now: format_datetime(now),
        });
    }
    if now.saturating_sub(made) > AGE_MAX && !store_is_empty {
        return Err(ImportError::Old { time: time.clone() });
    }
    Ok(())
}
