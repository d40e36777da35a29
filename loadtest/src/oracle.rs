//! What a consumer that saw every event from the first on must hold in the end.
//!
//! Kept beside the generation and from its own values, never from the frames: a commit applies whatever the account's
//! status is, the newest `rev` wins; of statuses and handles the newest `time` wins. A status without a readable time does
//! not count; a handle without one is older than any other (an only handle is better than none), and of several such the
//! greatest counts. Written to and read from JSON lines, records as a `dump` prints them with `"kind":"record"` before, and
//! repositories with `"kind":"repo"`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dagcbor::{Cid, Value};
use crate::tid::Tid;

/// A record that must be held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// DID of the repository.
    pub did: String,
    /// NSID.
    pub collection: String,
    /// Record key.
    pub rkey: String,
    /// CID.
    pub cid: String,
    /// The `rev` that it was last written at.
    pub rev: String,
    /// The AT Protocol JSON.
    pub value: serde_json::Value,
}

/// What must be held of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoState {
    /// The DID.
    pub did: String,
    /// The newest handle, if an event said one.
    pub handle: Option<String>,
    /// Whether it is shown; `true` if no event said anything.
    pub active: bool,
    /// Why not.
    pub status: Option<String>,
    /// The newest revision of a commit or a sync, if there was one.
    pub rev: Option<String>,
    /// The newest revision of a commit, if there was one.
    pub commit_rev: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Record(Record),
    Repo(RepoState),
}

/// The expected state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Oracle {
    /// By DID.
    pub repos: BTreeMap<String, RepoState>,
    /// By (DID, collection, record key).
    pub records: BTreeMap<(String, String, String), Record>,
}

impl Oracle {
    /// Reads the lines that [`Oracle::write`] wrote.
    pub fn read(lines: impl BufRead) -> io::Result<Self> {
        let mut oracle = Self::default();
        for (at, line) in lines.lines().enumerate() {
            let line = serde_json::from_str(&line?).map_err(|error| {
                let text = format!("line {} of the oracle: {error}", at + 1);
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            oracle.add(line);
        }
        Ok(oracle)
    }

    /// Writes JSON lines, repositories first, both in order.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for repo in self.repos.values() {
            write_line(out, &Line::Repo(repo.clone()))?;
        }
        for record in self.records.values() {
            write_line(out, &Line::Record(record.clone()))?;
        }
        Ok(())
    }

    /// The lines of [`Oracle::write`].
    pub fn to_lines(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Repo(repo) => {
                self.repos.insert(repo.did.clone(), repo);
            }
            Line::Record(record) => {
                let key = (
                    record.did.clone(),
                    record.collection.clone(),
                    record.rkey.clone(),
                );
                self.records.insert(key, record);
            }
        }
    }
}

fn write_line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Where the JSON of records is kept while the history is made.
enum Values {
    Memory(Vec<u8>),
    /// A file without a name: for histories that do not fit into memory.
    File(BufWriter<File>),
}

/// Where a value lies in [`Values`].
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    len: u32,
}

#[derive(Default)]
struct Account {
    handle: Option<(u64, String)>,
    status: Option<(u64, bool, Option<String>)>,
    rev: Option<Tid>,
    commit_rev: Option<Tid>,
    records: HashMap<Arc<str>, (Cid, Tid, Span)>,
}

/// Follows a history and knows what it leads to.
pub(crate) struct Tracker {
    accounts: Vec<Account>,
    values: Values,
    end: u64,
}

impl Tracker {
    /// For so many repositories, all in memory.
    pub(crate) fn in_memory(repos: usize) -> Self {
        Self::new(repos, Values::Memory(Vec::new()))
    }

    /// The same with the values of records in `file`, which must be readable.
    pub(crate) fn in_file(repos: usize, file: File) -> Self {
        Self::new(repos, Values::File(BufWriter::with_capacity(1 << 20, file)))
    }

    fn new(repos: usize, values: Values) -> Self {
        Self {
            accounts: (0..repos).map(|_| Account::default()).collect(),
            values,
            end: 0,
        }
    }

    pub(crate) fn put(
        &mut self,
        repo: usize,
        path: &Arc<str>,
        cid: Cid,
        rev: Tid,
        value: &Value,
    ) -> io::Result<()> {
        let json = serde_json::to_vec(&value.to_json())?;
        let span = Span {
            start: self.end,
            len: json.len() as u32,
        };
        self.end += json.len() as u64;
        match &mut self.values {
            Values::Memory(all) => all.extend_from_slice(&json),
            Values::File(file) => file.write_all(&json)?,
        }
        self.accounts[repo]
            .records
            .insert(path.clone(), (cid, rev, span));
        Ok(())
    }

    pub(crate) fn delete(&mut self, repo: usize, path: &str) {
        self.accounts[repo].records.remove(path);
    }

    pub(crate) fn revision(&mut self, repo: usize, rev: Tid, commit: bool) {
        let account = &mut self.accounts[repo];
        account.rev = account.rev.max(Some(rev));
        if commit {
            account.commit_rev = account.commit_rev.max(Some(rev));
        }
    }

    /// A handle that an event said; 0 microseconds if its time can't be read.
    pub(crate) fn handle(&mut self, repo: usize, micros: u64, handle: &str) {
        let held = &mut self.accounts[repo].handle;
        let said = (micros, handle.to_owned());
        if held.as_ref().is_none_or(|held| *held < said) {
            *held = Some(said);
        }
    }

    pub(crate) fn status(&mut self, repo: usize, micros: u64, active: bool, status: Option<&str>) {
        let held = &mut self.accounts[repo].status;
        if held.as_ref().is_none_or(|(time, ..)| *time < micros) {
            *held = Some((micros, active, status.map(str::to_owned)));
        }
    }

    /// The time of the newest status or handle, in microseconds: 0 if there is none.
    pub(crate) fn newest(&self, repo: usize) -> u64 {
        let account = &self.accounts[repo];
        let handle = account.handle.as_ref().map_or(0, |(time, _)| *time);
        handle.max(account.status.as_ref().map_or(0, |(time, ..)| *time))
    }

    pub(crate) fn finish(mut self, dids: &[&str]) -> io::Result<Oracle> {
        let mut oracle = Oracle::default();
        self.each_line(dids, |line| {
            oracle.add(line);
            Ok(())
        })?;
        Ok(oracle)
    }

    pub(crate) fn write(mut self, dids: &[&str], out: &mut impl Write) -> io::Result<()> {
        self.each_line(dids, |line| write_line(out, &line))
    }

    fn each_line(
        &mut self,
        dids: &[&str],
        mut each: impl FnMut(Line) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Values::File(file) = &mut self.values {
            file.flush()?;
        }
        for (account, did) in self.accounts.iter().zip(dids) {
            let known =
                account.handle.is_some() || account.status.is_some() || account.rev.is_some();
            if !known {
                continue;
            }
            let (active, status) = match &account.status {
                Some((_, active, status)) => (*active, status.clone()),
                None => (true, None),
            };
            each(Line::Repo(RepoState {
                did: (*did).to_owned(),
                handle: account.handle.as_ref().map(|(_, handle)| handle.clone()),
                active,
                status,
                rev: account.rev.map(|rev| rev.to_string()),
                commit_rev: account.commit_rev.map(|rev| rev.to_string()),
            }))?;
            let mut records: Vec<_> = account.records.iter().collect();
            records.sort_by_key(|(path, _)| *path);
            for (path, (cid, rev, span)) in records {
                let (collection, rkey) = path.split_once('/').unwrap_or((path, ""));
                each(Line::Record(Record {
                    did: (*did).to_owned(),
                    collection: collection.to_owned(),
                    rkey: rkey.to_owned(),
                    cid: cid.to_string(),
                    rev: rev.to_string(),
                    value: self.value(*span)?,
                }))?;
            }
        }
        Ok(())
    }

    fn value(&self, span: Span) -> io::Result<serde_json::Value> {
        let mut bytes = vec![0; span.len as usize];
        match &self.values {
            Values::Memory(all) => {
                let start = span.start as usize;
                bytes.copy_from_slice(&all[start..start + span.len as usize]);
            }
            Values::File(file) => file.get_ref().read_exact_at(&mut bytes, span.start)?,
        }
        Ok(serde_json::from_slice(&bytes)?)
    }
}
