//! Messages of the stream as bytes (protocol.md, section 2), in two halves with the `seq` between them: the number is
//! known only when the order is.

use crate::dagcbor::{self, Cid};
use crate::tid::Tid;

/// A message that has no number yet.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Index of the repository.
    pub repo: usize,
    /// Whether it is a `#commit`.
    pub commit: bool,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Message {
    /// The two CBOR items with this `seq`.
    pub fn numbered(&self, seq: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.before.len() + self.after.len() + 9);
        out.extend_from_slice(&self.before);
        dagcbor::head(&mut out, 0, seq);
        out.extend_from_slice(&self.after);
        out
    }
}

/// What one operation says.
pub(crate) struct OpText<'a> {
    pub action: &'static str,
    pub path: &'a str,
    pub cid: Option<Cid>,
    pub prev: Option<Cid>,
}

/// Deviations from the lexicon that real relays show and that a consumer must bear.
#[derive(Default, Clone, Copy)]
pub(crate) struct Sloppiness {
    pub since_empty: bool,
    pub no_prev_data: bool,
    pub no_too_big: bool,
    pub blobs_null: bool,
    pub legacy_prev: bool,
    pub unknown_field: bool,
}

pub(crate) struct CommitText<'a> {
    pub repo: usize,
    pub did: &'a str,
    pub rev: Tid,
    pub since: Option<Tid>,
    pub time: &'a str,
    pub commit: &'a Cid,
    pub prev_data: Option<&'a Cid>,
    pub ops: &'a [OpText<'a>],
    pub blocks: &'a [u8],
    pub sloppy: Sloppiness,
}

/// Header of a message of type `kind`.
fn header(kind: &str, op: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    dagcbor::head(&mut out, 5, 2);
    dagcbor::text(&mut out, "t");
    dagcbor::text(&mut out, kind);
    dagcbor::text(&mut out, "op");
    dagcbor::int(&mut out, op);
    out
}

fn text_field(out: &mut Vec<u8>, name: &str, value: &str) {
    dagcbor::text(out, name);
    dagcbor::text(out, value);
}

pub(crate) fn commit(text: &CommitText<'_>) -> Message {
    let sloppy = text.sloppy;
    let prev_data = text.prev_data.filter(|_| !sloppy.no_prev_data);
    let fields = 10
        + u64::from(!sloppy.no_too_big)
        + u64::from(prev_data.is_some())
        + u64::from(sloppy.legacy_prev)
        + u64::from(sloppy.unknown_field);
    let mut before = header("#commit", 1);
    dagcbor::head(&mut before, 5, fields);
    dagcbor::text(&mut before, "ops");
    dagcbor::head(&mut before, 4, text.ops.len() as u64);
    for op in text.ops {
        let prev = op.prev.filter(|_| !sloppy.no_prev_data);
        dagcbor::head(&mut before, 5, if prev.is_some() { 4 } else { 3 });
        dagcbor::text(&mut before, "cid");
        dagcbor::link_or_null(&mut before, op.cid.as_ref());
        text_field(&mut before, "path", op.path);
        if let Some(prev) = prev {
            dagcbor::text(&mut before, "prev");
            dagcbor::link(&mut before, &prev);
        }
        text_field(&mut before, "action", op.action);
    }
    text_field(&mut before, "rev", &text.rev.to_string());
    dagcbor::text(&mut before, "seq");

    let mut after = Vec::with_capacity(text.blocks.len() + 512);
    if sloppy.legacy_prev {
        dagcbor::text(&mut after, "prev");
        dagcbor::null(&mut after);
    }
    text_field(&mut after, "repo", text.did);
    text_field(&mut after, "time", text.time);
    dagcbor::text(&mut after, "blobs");
    match sloppy.blobs_null {
        true => dagcbor::null(&mut after),
        false => dagcbor::head(&mut after, 4, 0),
    }
    dagcbor::text(&mut after, "since");
    match text.since {
        _ if sloppy.since_empty => dagcbor::text(&mut after, ""),
        Some(since) => dagcbor::text(&mut after, &since.to_string()),
        None => dagcbor::null(&mut after),
    }
    dagcbor::text(&mut after, "blocks");
    dagcbor::bytes(&mut after, text.blocks);
    dagcbor::text(&mut after, "commit");
    dagcbor::link(&mut after, text.commit);
    dagcbor::text(&mut after, "rebase");
    dagcbor::bool(&mut after, false);
    if !sloppy.no_too_big {
        dagcbor::text(&mut after, "tooBig");
        dagcbor::bool(&mut after, false);
    }
    if let Some(prev_data) = prev_data {
        dagcbor::text(&mut after, "prevData");
        dagcbor::link(&mut after, prev_data);
    }
    if sloppy.unknown_field {
        text_field(&mut after, "unknownField", "of a later version");
    }
    Message {
        repo: text.repo,
        commit: true,
        before,
        after,
    }
}

/// A message `{did, seq, time, …}`: all but commits. `last` are the fields after `time`, in canonical order.
fn simple(
    kind: &str,
    op: i64,
    repo: usize,
    did: &str,
    rev: Option<Tid>,
    time: &str,
    last: &[(&str, Field<'_>)],
) -> Message {
    let mut before = header(kind, op);
    dagcbor::head(
        &mut before,
        5,
        3 + u64::from(rev.is_some()) + last.len() as u64,
    );
    text_field(&mut before, "did", did);
    if let Some(rev) = rev {
        text_field(&mut before, "rev", &rev.to_string());
    }
    dagcbor::text(&mut before, "seq");
    let mut after = Vec::with_capacity(512);
    text_field(&mut after, "time", time);
    for (name, field) in last {
        dagcbor::text(&mut after, name);
        match field {
            Field::Text(value) => dagcbor::text(&mut after, value),
            Field::Bool(value) => dagcbor::bool(&mut after, *value),
            Field::Bytes(value) => dagcbor::bytes(&mut after, value),
        }
    }
    Message {
        repo,
        commit: false,
        before,
        after,
    }
}

enum Field<'a> {
    Text(&'a str),
    Bool(bool),
    Bytes(&'a [u8]),
}

pub(crate) fn sync(repo: usize, did: &str, rev: Tid, time: &str, blocks: &[u8]) -> Message {
    simple(
        "#sync",
        1,
        repo,
        did,
        Some(rev),
        time,
        &[("blocks", Field::Bytes(blocks))],
    )
}

pub(crate) fn identity(repo: usize, did: &str, time: &str, handle: Option<&str>) -> Message {
    let handle = handle.map(|handle| ("handle", Field::Text(handle)));
    simple("#identity", 1, repo, did, None, time, handle.as_slice())
}

pub(crate) fn account(
    repo: usize,
    did: &str,
    time: &str,
    active: bool,
    status: Option<&str>,
) -> Message {
    let mut last = vec![("active", Field::Bool(active))];
    last.extend(status.map(|status| ("status", Field::Text(status))));
    simple("#account", 1, repo, did, None, time, &last)
}

/// A message of a retired or unknown type, or of an unknown `op`: to be passed over.
pub(crate) fn retired(repo: usize, did: &str, time: &str, which: u32) -> Message {
    match which % 5 {
        0 => simple(
            "#handle",
            1,
            repo,
            did,
            None,
            time,
            &[("handle", Field::Text("old.example.com"))],
        ),
        1 => simple("#tombstone", 1, repo, did, None, time, &[]),
        2 => simple(
            "#migrate",
            1,
            repo,
            did,
            None,
            time,
            &[("migrateTo", Field::Text("https://pds.example.com"))],
        ),
        3 => simple(
            "#fromTheFuture",
            1,
            repo,
            did,
            None,
            time,
            &[("active", Field::Bool(false))],
        ),
        _ => simple(
            "#account",
            7,
            repo,
            did,
            None,
            time,
            &[("active", Field::Bool(false))],
        ),
    }
}

/// An `#info`, which has no `seq`.
pub fn info(name: &str, message: &str) -> Vec<u8> {
    let mut out = header("#info", 1);
    dagcbor::head(&mut out, 5, 2);
    text_field(&mut out, "name", name);
    text_field(&mut out, "message", message);
    out
}

/// An error frame, after which a relay closes.
pub fn error(error: &str, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    dagcbor::head(&mut out, 5, 1);
    dagcbor::text(&mut out, "op");
    dagcbor::int(&mut out, -1);
    dagcbor::head(&mut out, 5, 2);
    text_field(&mut out, "error", error);
    text_field(&mut out, "message", message);
    out
}
