//! Writes a full dump.

use std::io::Write;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::line::{ChoiceLine, Header, Line, QuarantineLine, RecordLine, RepoLine};
use super::{CHOICES, Counts, FORMAT, Seal};
use crate::decode::time::format_datetime;
use crate::store::{Page, Record, RecordsQuery, Store, StoreError};
use crate::telemetry::VERSION;

/// Rows of a page; a page of records ends earlier where the store bounds it by bytes.
const PAGE: usize = 1_000;

/// Why there is no whole dump.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The dump could not be written.
    #[error("the dump can't be written: {0}")]
    Io(#[from] std::io::Error),
}

/// Lines on their way out.
struct Lines<'a, W> {
    out: W,
    line: Vec<u8>,
    seal: Seal,
    counts: Counts,
    progress: &'a mut (dyn FnMut(&Counts) + Send),
}

impl<W: Write> Lines<'_, W> {
    fn put(&mut self, line: &Line<'_>) -> Result<(), ExportError> {
        line.write(&mut self.line).map_err(std::io::Error::from)?;
        self.seal.close(&mut self.line);
        self.line.push(b'\n');
        self.out.write_all(&self.line)?;
        let Counts {
            facts,
            repairs,
            choices,
            quarantine,
            repos,
            records,
        } = &mut self.counts;
        match line {
            Line::Fact(_) => *facts += 1,
            Line::Repair(_) => *repairs += 1,
            Line::Choice(_) => *choices += 1,
            Line::Quarantine(_) => *quarantine += 1,
            Line::Repo(_) => *repos += 1,
            Line::Record(_) => *records += 1,
            Line::Header(_) | Line::End(_) => {}
        }
        (self.progress)(&self.counts);
        Ok(())
    }
}

/// Writes all that the store holds, page by page, and tells `progress` after each line. `now` is the time in microseconds.
///
/// Others may write meanwhile: what they write may be in the dump or not, and no fact of the dump claims it.
///
/// # Errors
///
/// Those of the store and of `out`; the dump has no end then, and an import says so.
pub async fn export(
    store: &Arc<dyn Store>,
    out: impl Write,
    now: u64,
    progress: &mut (dyn FnMut(&Counts) + Send),
) -> Result<Counts, ExportError> {
    let mut lines = Lines {
        out,
        line: Vec::new(),
        seal: Seal::default(),
        counts: Counts::default(),
        progress,
    };
    lines.put(&Line::Header(Header {
        format: FORMAT,
        time: format_datetime(now),
        version: VERSION.to_owned(),
    }))?;
    for fact in store.facts().await? {
        lines.put(&Line::Fact(fact))?;
    }
    choices(store, &mut lines).await?;
    small_rows(store, &mut lines).await?;
    records(store, &mut lines).await?;
    let counts = lines.counts;
    lines.put(&Line::End(counts))?;
    lines.out.flush()?;
    Ok(counts)
}

async fn choices<W: Write>(
    store: &Arc<dyn Store>,
    lines: &mut Lines<'_, W>,
) -> Result<(), ExportError> {
    for kind in CHOICES {
        let mut cursor = None;
        loop {
            let page = store.choices(kind, "", cursor.as_deref(), PAGE).await?;
            for choice in page.items {
                lines.put(&Line::Choice(ChoiceLine::of(choice)))?;
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(())
}

async fn small_rows<W: Write>(
    store: &Arc<dyn Store>,
    lines: &mut Lines<'_, W>,
) -> Result<(), ExportError> {
    let mut cursor = None;
    loop {
        let page = store.repairs(cursor.as_deref(), PAGE).await?;
        for repair in page.items {
            lines.put(&Line::Repair(repair))?;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    loop {
        let page = store.quarantine(cursor.as_deref(), PAGE).await?;
        for entry in page.items {
            // It may have been taken in since the page was read.
            if let Some((entry, raw)) = store.quarantined(&entry.id).await? {
                lines.put(&Line::Quarantine(QuarantineLine::of(entry, &raw)))?;
            }
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    loop {
        let page = store.repos(cursor.as_deref(), PAGE).await?;
        for repo in &page.items {
            lines.put(&Line::Repo(RepoLine::of(repo)))?;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// While a page is written the next one is read, so that two are in memory at most.
async fn records<W: Write>(
    store: &Arc<dyn Store>,
    lines: &mut Lines<'_, W>,
) -> Result<(), ExportError> {
    let mut pages = JoinSet::new();
    pages.spawn(page_of_records(store.clone(), None));
    while let Some(read) = pages.join_next().await {
        let page = read.map_err(|error| StoreError::Failed(error.to_string()))??;
        if page.cursor.is_some() {
            pages.spawn(page_of_records(store.clone(), page.cursor));
        }
        for record in &page.items {
            lines.put(&Line::Record(RecordLine::of(record)))?;
        }
    }
    Ok(())
}

async fn page_of_records(
    store: Arc<dyn Store>,
    cursor: Option<String>,
) -> Result<Page<Record>, StoreError> {
    let query = RecordsQuery {
        cursor,
        limit: PAGE,
        values: true,
        ..RecordsQuery::default()
    };
    store.records(&query).await
}
