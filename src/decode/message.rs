//! The header and the payloads of frames: fields, their types and their syntax (protocol.md, sections 1 and 2).

use super::cbor::{CborError, Cursor};
use super::error::{DecodeError, field};
use super::frame::Limits;
use super::ops::{self, Op, Span, nullable};
use super::peek::{Kind, MAX_SEQ};
use super::{Account, Cid, Event, Identity, Info, Tid, syntax};

pub(super) fn parse_rev(text: &[u8]) -> Result<Tid, DecodeError> {
    Tid::parse(text).ok_or_else(|| DecodeError::field("rev is not a TID"))
}

fn check_did(text: &str) -> Result<&str, DecodeError> {
    if syntax::is_did(text) {
        Ok(text)
    } else {
        Err(DecodeError::field("the DID is malformed"))
    }
}

fn check_seq(seq: u64) -> Result<u64, DecodeError> {
    if (1..=MAX_SEQ).contains(&seq) {
        Ok(seq)
    } else {
        Err(DecodeError::field("seq is not within 1 and 2^53 - 1"))
    }
}

/// Reads `time`: whatever is no text is taken as empty, since relays pass it on unvalidated.
#[inline]
fn read_time<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, DecodeError> {
    match cursor.text() {
        Err(CborError::WrongType) => field("time", cursor.skip()).map(|()| ""),
        other => field("time", other),
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    pub(super) kind: Kind,
    pub(super) t: &'a str,
}

impl<'a> Header<'a> {
    pub(super) fn parse(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let (mut op, mut t) = (None, None);
        let mut last = None;
        for _ in 0..field("header", cursor.map())? {
            match field("header", cursor.key(&mut last))? {
                b"t" => t = Some(field("t", cursor.text())?),
                b"op" => op = Some(field("op", cursor.integer())?),
                _ => field("header", cursor.skip())?,
            }
        }
        let kind = match (op, t) {
            (Some(1), Some(t)) => Kind::of_message(t.as_bytes()),
            (Some(1), None) => return Err(DecodeError::missing("t")),
            (Some(-1), _) => Kind::Error,
            (Some(_), _) => Kind::Unknown,
            (None, _) => return Err(DecodeError::missing("op")),
        };
        Ok(Self {
            kind,
            t: t.unwrap_or_default(),
        })
    }
}

/// The payload of a `#commit`.
pub(super) struct CommitMessage<'a> {
    pub(super) seq: u64,
    pub(super) repo: &'a str,
    pub(super) rev: Tid,
    pub(super) since: Option<Tid>,
    pub(super) time: &'a str,
    pub(super) commit: Cid,
    pub(super) prev_data: Option<Cid>,
    pub(super) too_big: bool,
    pub(super) blocks: Span,
}

impl<'a> CommitMessage<'a> {
    #[inline]
    pub(super) fn parse(
        frame: &'a [u8],
        cursor: &mut Cursor<'a>,
        ops: &mut Vec<Op>,
        limits: &Limits,
    ) -> Result<Self, DecodeError> {
        ops.clear();
        let (mut seq, mut repo, mut rev, mut commit) = (None, None, None, None);
        let (mut since, mut prev_data, mut blocks) = (None, None, None);
        let (mut time, mut too_big, mut has_ops) = ("", false, false);
        let mut last = None;
        for _ in 0..field("message", cursor.map())? {
            match field("message", cursor.key(&mut last))? {
                b"ops" => {
                    has_ops = true;
                    let count = field("ops", cursor.array())?;
                    ops::check_count(count, limits.ops)?;
                    for _ in 0..count {
                        ops.push(Op::parse(frame, cursor)?);
                    }
                }
                b"rev" => rev = Some(parse_rev(field("rev", cursor.text_bytes())?)?),
                b"seq" => seq = Some(check_seq(field("seq", cursor.unsigned())?)?),
                b"repo" => repo = Some(check_did(field("repo", cursor.text())?)?),
                b"time" => time = read_time(cursor)?,
                b"since" => since = read_since(cursor)?,
                b"blocks" => {
                    let bytes = field("blocks", cursor.bytes())?;
                    blocks = Some(Span::before(frame, cursor.rest().len(), bytes.len()));
                }
                b"commit" => commit = Some(field("commit", cursor.cid())?),
                b"tooBig" => too_big = nullable("tooBig", cursor, Cursor::bool)?.unwrap_or(false),
                b"prevData" => prev_data = nullable("prevData", cursor, Cursor::cid)?,
                _ => field("message", cursor.skip())?,
            }
        }
        field("frame", cursor.end())?;
        if !has_ops {
            return Err(DecodeError::missing("ops"));
        }
        Ok(Self {
            seq: seq.ok_or_else(|| DecodeError::missing("seq"))?,
            repo: repo.ok_or_else(|| DecodeError::missing("repo"))?,
            rev: rev.ok_or_else(|| DecodeError::missing("rev"))?,
            since,
            time,
            commit: commit.ok_or_else(|| DecodeError::missing("commit"))?,
            prev_data,
            too_big,
            blocks: blocks.ok_or_else(|| DecodeError::missing("blocks"))?,
        })
    }
}

fn read_since(cursor: &mut Cursor<'_>) -> Result<Option<Tid>, DecodeError> {
    match nullable("since", cursor, Cursor::text_bytes)? {
        None | Some(b"") => Ok(None),
        Some(text) => Tid::parse(text)
            .map(Some)
            .ok_or_else(|| DecodeError::field("since is not a TID")),
    }
}

/// The fields of all other messages, as far as a message has them.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) seq: Option<u64>,
    pub(super) did: Option<&'a str>,
    pub(super) rev: Option<&'a str>,
    pub(super) time: &'a str,
    pub(super) blocks: Option<Span>,
    pub(super) handle: Option<&'a str>,
    pub(super) active: Option<bool>,
    pub(super) status: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    pub(super) message: Option<&'a str>,
}

/// A value of another type than expected counts as absent; what needs the field refuses that.
fn lenient<'a, T>(
    name: &'static str,
    cursor: &mut Cursor<'a>,
    read: impl FnOnce(&mut Cursor<'a>) -> Result<T, CborError>,
) -> Result<Option<T>, DecodeError> {
    let start = *cursor;
    match read(cursor) {
        Ok(value) => Ok(Some(value)),
        Err(CborError::WrongType) => {
            *cursor = start;
            field(name, cursor.skip()).map(|()| None)
        }
        Err(error) => field(name, Err(error)),
    }
}

impl<'a> Fields<'a> {
    pub(super) fn parse(frame: &'a [u8], cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let mut fields = Self::default();
        let mut last = None;
        for _ in 0..field("message", cursor.map())? {
            match field("message", cursor.key(&mut last))? {
                b"seq" => fields.seq = lenient("seq", cursor, Cursor::unsigned)?,
                b"did" => fields.did = lenient("did", cursor, Cursor::text)?,
                b"rev" => fields.rev = lenient("rev", cursor, Cursor::text)?,
                b"time" => fields.time = read_time(cursor)?,
                b"blocks" => {
                    let bytes = lenient("blocks", cursor, Cursor::bytes)?;
                    let left = cursor.rest().len();
                    fields.blocks = bytes.map(|bytes| Span::before(frame, left, bytes.len()));
                }
                b"handle" => fields.handle = lenient("handle", cursor, Cursor::text)?,
                b"active" => fields.active = lenient("active", cursor, Cursor::bool)?,
                b"status" => fields.status = lenient("status", cursor, Cursor::text)?,
                b"name" => fields.name = lenient("name", cursor, Cursor::text)?,
                b"error" => fields.error = lenient("error", cursor, Cursor::text)?,
                b"message" => fields.message = lenient("message", cursor, Cursor::text)?,
                _ => field("message", cursor.skip())?,
            }
        }
        field("frame", cursor.end())?;
        Ok(fields)
    }

    pub(super) fn seq(&self) -> Result<u64, DecodeError> {
        self.seq
            .ok_or_else(|| DecodeError::missing("seq"))
            .and_then(check_seq)
    }

    pub(super) fn did(&self) -> Result<&'a str, DecodeError> {
        self.did
            .ok_or_else(|| DecodeError::missing("did"))
            .and_then(check_did)
    }

    pub(super) fn into_event(self, header: Header<'a>) -> Result<Event<'a>, DecodeError> {
        Ok(match header.kind {
            Kind::Identity => Event::Identity(Identity {
                seq: self.seq()?,
                did: self.did()?,
                time: self.time,
                handle: self.handle,
            }),
            Kind::Account => Event::Account(Account {
                seq: self.seq()?,
                did: self.did()?,
                time: self.time,
                active: self.active.ok_or_else(|| DecodeError::missing("active"))?,
                status: self.status,
            }),
            Kind::Info => Event::Info(Info {
                name: self.name.ok_or_else(|| DecodeError::missing("name"))?,
                message: self.message,
            }),
            Kind::Error => Event::Error {
                // Without it the relay says nothing that could be heeded: a broken frame must not cost the connection.
                error: self.error.ok_or_else(|| DecodeError::missing("error"))?,
                message: self.message.unwrap_or_default(),
            },
            _ => Event::Unknown { kind: header.t },
        })
    }
}
