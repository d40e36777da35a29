//! A history of many accounts: who does what, and when. Messages come out without numbers, in the order of their making;
//! what they lead to goes to the [`Tracker`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::actor::{Actor, templates};
use crate::dagcbor::{Cid, Value};
use crate::datetime;
use crate::message::{self, CommitText, Message, OpText, Sloppiness};
use crate::mst::TreeError;
use crate::oracle::Tracker;
use crate::records::{self, Oddity};
use crate::repo::{CommitBlock, car};
use crate::tid::Tid;
use crate::world::{Summary, WorldSpec};

const STATUSES: [&str; 4] = ["deactivated", "takendown", "suspended", "deleted"];

pub(crate) struct History<'a> {
    spec: &'a WorldSpec,
    rng: ChaCha8Rng,
    pub actors: Vec<Actor>,
    pub tracker: Tracker,
    pub summary: Summary,
    pending: VecDeque<Message>,
    made: u64,
    start: u64,
    end: u64,
}

struct Op {
    action: &'static str,
    path: Arc<str>,
    cid: Option<Cid>,
    prev: Option<Cid>,
    record: Option<(Value, Vec<u8>)>,
}

/// So much of `whole` as `part` is of `parts`.
fn share(whole: u64, part: u64, parts: u64) -> u64 {
    (u128::from(whole) * u128::from(part) / u128::from(parts.max(1))) as u64
}

fn broken(error: TreeError) -> io::Error {
    io::Error::other(format!("the simulator's own tree: {error}"))
}

impl<'a> History<'a> {
    pub(crate) fn new(spec: &'a WorldSpec, tracker: Tracker) -> io::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        let (start, end) = spec.span();
        let born = start.saturating_sub(spec.past);
        let templates = templates(&mut rng, spec.prefill, born).map_err(broken)?;
        let actors = (0..spec.repos.max(1))
            .map(|at| Actor::new(&mut rng, spec, at, &templates, born))
            .collect();
        Ok(Self {
            spec,
            rng,
            actors,
            tracker,
            summary: Summary::default(),
            pending: VecDeque::new(),
            made: 0,
            start,
            end,
        })
    }

    /// The next message; `None` after as many as were asked for.
    pub(crate) fn next(&mut self) -> io::Result<Option<Message>> {
        if self.made == self.spec.events {
            return Ok(None);
        }
        while self.pending.is_empty() {
            self.step()?;
        }
        self.made += 1;
        Ok(self.pending.pop_front())
    }

    /// Microseconds of the event that is made now.
    fn now(&self) -> u64 {
        let past_events = self.spec.past_events.min(self.spec.events);
        let ahead = (self.made + self.pending.len() as u64).min(self.spec.events);
        let Some(recent) = ahead.checked_sub(past_events) else {
            let left = share(self.spec.past, past_events - ahead, past_events);
            return self.start.saturating_sub(left);
        };
        let span = self.end - self.start;
        self.start + share(span, recent, self.spec.events - past_events)
    }

    fn step(&mut self) -> io::Result<()> {
        // Some accounts do much, most do little.
        let skew = self.rng.random::<f64>().powi(2);
        let at = ((self.actors.len() as f64 * skew) as usize).min(self.actors.len() - 1);
        if !self.actors[at].born {
            return self.create_account(at);
        }
        // An account that is not active mostly comes back; some hosts go on sending its commits.
        let inactive = !self.actors[at].active;
        match self.rng.random_range(0..1000) {
            0..6 => self.identity(at),
            6..12 => self.status_change(at),
            12..14 => self.sync(at)?,
            14..16 => self.retired(at),
            _ if inactive && self.rng.random_bool(0.3) => self.status(at, true, None),
            _ => self.commit(at, false)?,
        }
        Ok(())
    }

    /// Whether the message just made would be sent: a history may end in the middle of a step, and what is not sent must
    /// not be expected.
    fn counts(&self) -> bool {
        self.made + (self.pending.len() as u64) < self.spec.events
    }

    fn create_account(&mut self, at: usize) -> io::Result<()> {
        self.actors[at].born = true;
        if self.actors[at].repo.head.is_some() {
            return self.commit(at, false);
        }
        let handle = self.actors[at].handle.clone();
        self.say_handle(at, Some(handle));
        self.status(at, true, None);
        self.commit(at, true)
    }

    fn identity(&mut self, at: usize) {
        let handle = match self.rng.random_range(0..10) {
            0 => None,
            1 => Some("handle.invalid".to_owned()),
            _ => Some(format!(
                "{}.example.com",
                records::letters(&mut self.rng, 8).to_ascii_lowercase()
            )),
        };
        self.say_handle(at, handle);
    }

    fn say_handle(&mut self, at: usize, handle: Option<String>) {
        if !self.counts() {
            return;
        }
        let (time, micros) = self.account_time(at);
        if let Some(handle) = &handle {
            self.tracker.handle(at, micros.unwrap_or(0), handle);
        }
        let actor = &mut self.actors[at];
        let message = message::identity(at, &actor.repo.did, &time, handle.as_deref());
        if let Some(handle) = handle.filter(|handle| handle != "handle.invalid") {
            actor.handle = handle;
        }
        self.summary.identities += 1;
        self.pending.push_back(message);
    }

    fn status_change(&mut self, at: usize) {
        if !self.actors[at].active {
            return self.status(at, true, None);
        }
        match self.rng.random_range(0..10) {
            0 => self.status(at, true, Some("desynchronized")),
            1 => self.status(at, false, None),
            2 => self.status(at, false, Some("a-status-of-tomorrow")),
            _ => {
                let status = STATUSES[self.rng.random_range(0..STATUSES.len())];
                self.status(at, false, Some(status));
            }
        }
    }

    fn status(&mut self, at: usize, active: bool, status: Option<&str>) {
        if !self.counts() {
            return;
        }
        let (time, micros) = self.account_time(at);
        if let Some(micros) = micros {
            self.tracker.status(at, micros, active, status);
        }
        self.actors[at].active = active;
        let message = message::account(at, &self.actors[at].repo.did, &time, active, status);
        self.summary.accounts += 1;
        self.pending.push_back(message);
    }

    /// The `time` of an account or identity event and what a reader must take it for: newer than all before, or, now and
    /// then, older, without a timezone, or unreadable.
    fn account_time(&mut self, at: usize) -> (String, Option<u64>) {
        let newest = self.tracker.newest(at) / 1000;
        let millis = (self.now() / 1000).max(newest + 1);
        if newest > 0 && self.rng.random_bool(self.spec.odd_times) {
            if self.rng.random_bool(0.5) {
                let unreadable = ["", "yesterday", "2026-99-99T99:99:99Z"];
                let text = unreadable[self.rng.random_range(0..unreadable.len())];
                self.summary.unreadable_times += 1;
                return (text.to_owned(), None);
            }
            let micros = (newest - self.rng.random_range(1..5_000)) * 1000;
            return (datetime::millis(micros), Some(micros));
        }
        let micros = millis * 1000;
        let text = match self.rng.random_bool(0.05) {
            true => datetime::zoneless(micros),
            false => datetime::millis(micros),
        };
        (text, Some(micros))
    }

    /// The `time` of a commit: shortly after its `rev`, at times long after it.
    fn commit_time(&mut self, micros: u64) -> String {
        let delay = match self.rng.random_range(0..100) {
            0 => self.rng.random_range(5_000..570_000),
            _ => self.rng.random_range(500..6_000),
        };
        let micros = micros + delay;
        match self.rng.random_range(0..1000) {
            0 => "not a time".to_owned(),
            1..20 => datetime::zoneless(micros),
            20..30 => datetime::all_micros(micros),
            _ => datetime::millis(micros),
        }
    }

    fn next_rev(&mut self, at: usize) -> Tid {
        let last = self.actors[at].repo.head.map_or(0, |(rev, _)| rev.micros());
        Tid::new(self.now().max(last + 1), self.rng.next_u64() % 32)
    }

    fn retired(&mut self, at: usize) {
        if !self.counts() {
            return;
        }
        let time = datetime::millis(self.now());
        let which = self.rng.next_u32();
        let message = message::retired(at, &self.actors[at].repo.did, &time, which);
        self.summary.passed_over += 1;
        self.pending.push_back(message);
    }

    fn sync(&mut self, at: usize) -> io::Result<()> {
        if !self.counts() || self.actors[at].repo.head.is_none() {
            return Ok(());
        }
        let rev = self.next_rev(at);
        let time = self.commit_time(rev.micros());
        let repo = &mut self.actors[at].repo;
        let commit = repo.commit(rev, self.spec.signatures, &mut self.rng);
        let blocks = car(&commit.cid, [(&commit.cid, commit.block.as_slice())]);
        let message = message::sync(at, &repo.did, rev, &time, &blocks);
        self.tracker.revision(at, rev, false);
        self.summary.syncs += 1;
        self.pending.push_back(message);
        Ok(())
    }

    fn commit(&mut self, at: usize, first: bool) -> io::Result<()> {
        if !self.counts() {
            return Ok(());
        }
        let rev = self.next_rev(at);
        let before = self.actors[at].repo.head;
        let ops = self.ops(at, rev, first).map_err(broken)?;
        let repo = &mut self.actors[at].repo;
        let commit = repo.commit(rev, self.spec.signatures, &mut self.rng);
        for op in &ops {
            match (&op.record, op.cid) {
                (Some((value, _)), Some(cid)) => self.tracker.put(at, &op.path, cid, rev, value)?,
                _ => self.tracker.delete(at, &op.path),
            }
            match op.action {
                "create" => self.summary.creates += 1,
                "update" => self.summary.updates += 1,
                _ => self.summary.deletes += 1,
            }
        }
        self.tracker.revision(at, rev, true);
        let time = self.commit_time(rev.micros());
        let message = self.commit_message(at, rev, before, &commit, &ops, &time);
        self.summary.commits += 1;
        self.pending.push_back(message);
        Ok(())
    }

    fn commit_message(
        &mut self,
        at: usize,
        rev: Tid,
        before: Option<(Tid, Cid)>,
        commit: &CommitBlock,
        ops: &[Op],
        time: &str,
    ) -> Message {
        let repo = &self.actors[at].repo;
        let nodes = repo.tree.proof(ops.iter().map(|op| &*op.path));
        let mut blocks: Vec<(Cid, &[u8])> = nodes
            .iter()
            .map(|(cid, block)| (*cid, block.as_slice()))
            .collect();
        self.summary.blocks += blocks.len() as u64 + 1;
        for op in ops {
            if let (Some((_, block)), Some(cid)) = (&op.record, op.cid) {
                blocks.push((cid, block));
                self.summary.blocks += 1;
            }
        }
        match self.rng.random_bool(0.92) {
            true => blocks.push((commit.cid, &commit.block)),
            false => blocks.insert(0, (commit.cid, &commit.block)),
        }
        let blocks = car(&commit.cid, blocks.iter().map(|(cid, block)| (cid, *block)));
        let texts: Vec<OpText<'_>> = ops
            .iter()
            .map(|op| OpText {
                action: op.action,
                path: &op.path,
                cid: op.cid,
                prev: op.prev,
            })
            .collect();
        let sloppy = sloppiness(&mut self.rng);
        message::commit(&CommitText {
            repo: at,
            did: &repo.did,
            rev,
            since: before.map(|(rev, _)| rev),
            time,
            commit: &commit.cid,
            prev_data: before.as_ref().map(|(_, data)| data),
            ops: &texts,
            blocks: &blocks,
            sloppy,
        })
    }

    /// Chooses the operations of a commit and applies them to the tree.
    fn ops(&mut self, at: usize, rev: Tid, first: bool) -> Result<Vec<Op>, TreeError> {
        let count = match self.rng.random_range(0..2000) {
            _ if first => 1,
            0 => self.rng.random_range(40..=200),
            1..5 => self.rng.random_range(6..40),
            5..35 => self.rng.random_range(2..6),
            35..43 => 0,
            _ => 1,
        };
        let mut ops: Vec<Op> = Vec::with_capacity(count);
        for nth in 0..count {
            let micros = rev.micros() - nth as u64;
            let op = match self.rng.random_range(0..1000) {
                _ if first => {
                    let draft = records::profile(&mut self.rng, micros);
                    self.write(at, draft.path, draft.value)?
                }
                0..27 => match self.delete(at, &ops)? {
                    Some(op) => op,
                    None => continue,
                },
                27..40 => match self.pick(at, &ops) {
                    Some((_, path)) => {
                        let value = records::content_of(&mut self.rng, &path, micros);
                        self.write(at, path, value)?
                    }
                    None => continue,
                },
                _ => match self.actors[at].recreate.take() {
                    Some(path) if ops.iter().all(|op| op.path != path) => {
                        let value = records::content_of(&mut self.rng, &path, micros);
                        self.write(at, path, value)?
                    }
                    _ => {
                        let draft = records::draft(&mut self.rng, micros);
                        if ops.iter().any(|op| op.path == draft.path) {
                            continue;
                        }
                        self.write(at, draft.path, draft.value)?
                    }
                },
            };
            ops.push(op);
        }
        Ok(ops)
    }

    /// A path that exists and that this commit has not touched yet.
    fn pick(&mut self, at: usize, ops: &[Op]) -> Option<(usize, Arc<str>)> {
        let paths = &self.actors[at].paths;
        if paths.is_empty() {
            return None;
        }
        let which = self.rng.random_range(0..paths.len());
        let path = paths[which].clone();
        ops.iter()
            .all(|op| op.path != path)
            .then_some((which, path))
    }

    fn delete(&mut self, at: usize, ops: &[Op]) -> Result<Option<Op>, TreeError> {
        let Some((which, path)) = self.pick(at, ops) else {
            return Ok(None);
        };
        let actor = &mut self.actors[at];
        actor.paths.swap_remove(which);
        let prev = actor.repo.tree.remove(&path)?;
        if self.rng.random_bool(0.3) {
            actor.recreate = Some(path.clone());
        }
        Ok(Some(Op {
            action: "delete",
            path,
            cid: None,
            prev: Some(prev),
            record: None,
        }))
    }

    /// A create, or an update if the path exists.
    fn write(&mut self, at: usize, path: Arc<str>, mut value: Value) -> Result<Op, TreeError> {
        if self.rng.random_bool(self.spec.odd_records) {
            let oddity = match self.rng.random_bool(0.5) {
                true => Oddity::Float,
                false => Oddity::KeyOrder,
            };
            records::make_odd(&mut value, oddity);
            self.summary.odd_records += 1;
        }
        let block = value.encode();
        let cid = Cid::of(&block);
        let actor = &mut self.actors[at];
        let prev = actor.repo.tree.get(&path)?;
        actor.repo.tree.insert(path.clone(), cid)?;
        if prev.is_none() {
            actor.paths.push(path.clone());
        }
        Ok(Op {
            action: if prev.is_some() { "update" } else { "create" },
            path,
            cid: Some(cid),
            prev,
            record: Some((value, block)),
        })
    }
}

fn sloppiness(rng: &mut ChaCha8Rng) -> Sloppiness {
    let mut sloppy = Sloppiness::default();
    match rng.random_range(0..1000) {
        0..15 => sloppy.since_empty = true,
        15..25 => sloppy.no_prev_data = true,
        25..30 => sloppy.no_too_big = true,
        30..35 => sloppy.blobs_null = true,
        35..40 => sloppy.legacy_prev = true,
        40..45 => sloppy.unknown_field = true,
        _ => {}
    }
    sloppy
}
