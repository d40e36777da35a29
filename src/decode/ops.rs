//! The operations of a commit: spans of the frame, kept in the decoder and read out through a view.

use super::cbor::{CborError, Cursor};
use super::error::{DecodeError, field};
use super::{Action, Cid, OpView, Reason, RecordFault, syntax};

/// A range of the frame's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The range of `len` bytes that ends where `rest` bytes are left.
    #[inline]
    pub(crate) fn before(frame: &[u8], rest: usize, len: usize) -> Self {
        let end = frame.len().saturating_sub(rest);
        Self {
            start: end.saturating_sub(len),
            end,
        }
    }

    /// Its bytes.
    #[inline]
    pub(crate) fn of(self, frame: &[u8]) -> &[u8] {
        frame.get(self.start..self.end).unwrap_or_default()
    }

    /// Where it ends in the frame.
    #[inline]
    pub(crate) fn end(self) -> usize {
        self.end
    }

    #[inline]
    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }
}

/// An operation as the frame says it, and the record that was found for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub(crate) action: Action,
    path: Span,
    collection_len: usize,
    pub(crate) cid: Option<Cid>,
    pub(crate) record: Span,
    pub(crate) fault: Option<RecordFault>,
    /// Whether a later operation on the same path overrides it, or its record is not there.
    pub(crate) left_out: bool,
}

impl Op {
    /// Reads one operation and checks its fields.
    #[inline]
    pub(crate) fn parse(frame: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let (mut action, mut path, mut cid) = (None, None, None);
        let mut last = None;
        for _ in 0..field("ops", cursor.map())? {
            match field("ops", cursor.key(&mut last))? {
                b"cid" => cid = nullable("op cid", cursor, Cursor::cid)?,
                b"path" => {
                    let text = field("op path", cursor.text_bytes())?;
                    path = Some((text, Span::before(frame, cursor.rest().len(), text.len())));
                }
                b"prev" => drop(nullable("op prev", cursor, Cursor::cid)?),
                b"action" => action = Some(read_action(cursor)?),
                _ => field("ops", cursor.skip())?,
            }
        }
        let action = action.ok_or_else(|| DecodeError::missing("op action"))?;
        let (text, path) = path.ok_or_else(|| DecodeError::missing("op path"))?;
        let slash = text.iter().position(|byte| *byte == b'/');
        let Some((collection, [_, rkey @ ..])) = slash.and_then(|at| text.split_at_checked(at))
        else {
            return Err(DecodeError::field("an op's path is not collection/rkey"));
        };
        if !syntax::is_nsid_bytes(collection) {
            return Err(DecodeError::field("an op's collection is not an NSID"));
        }
        if !syntax::is_rkey_bytes(rkey) {
            return Err(DecodeError::field("an op's rkey is not a record key"));
        }
        match (action, cid) {
            (Action::Delete, Some(_)) => Err(DecodeError::field("a delete has a cid")),
            (Action::Create | Action::Update, None) => {
                Err(DecodeError::field("a create or update has no cid"))
            }
            _ => Ok(Self {
                action,
                path,
                collection_len: collection.len(),
                cid,
                record: Span::default(),
                fault: None,
                left_out: false,
            }),
        }
    }
}

fn read_action(cursor: &mut Cursor<'_>) -> Result<Action, DecodeError> {
    match field("op action", cursor.text_bytes())? {
        b"create" => Ok(Action::Create),
        b"update" => Ok(Action::Update),
        b"delete" => Ok(Action::Delete),
        _ => Err(DecodeError::field("an op's action is unknown")),
    }
}

/// Reads a value or `null`.
#[inline]
pub(crate) fn nullable<'a, T>(
    name: &'static str,
    cursor: &mut Cursor<'a>,
    read: impl FnOnce(&mut Cursor<'a>) -> Result<T, CborError>,
) -> Result<Option<T>, DecodeError> {
    if cursor.null() {
        Ok(None)
    } else {
        field(name, read(cursor)).map(Some)
    }
}

/// Up to this many operations are compared pair by pair; more are sorted.
const FEW: usize = 16;

/// Leaves out every operation that a later one on the same path overrides. `order` is a buffer.
pub(crate) fn leave_out_overridden(frame: &[u8], ops: &mut [Op], order: &mut Vec<u32>) {
    if ops.len() <= FEW {
        let mut rest = ops;
        while let Some((op, later)) = rest.split_first_mut() {
            let path = op.path.of(frame);
            op.left_out = later.iter().any(|later| later.path.of(frame) == path);
            rest = later;
        }
        return;
    }
    let path = |ops: &[Op], at: u32| ops.get(at as usize).map(|op| op.path.of(frame));
    order.clear();
    order.extend(0..u32::try_from(ops.len()).unwrap_or(u32::MAX));
    order.sort_unstable_by(|left, right| {
        path(ops, *left)
            .cmp(&path(ops, *right))
            .then(left.cmp(right))
    });
    for pair in order.windows(2) {
        if let [earlier, later] = pair
            && path(ops, *earlier) == path(ops, *later)
            && let Some(op) = ops.get_mut(*earlier as usize)
        {
            op.left_out = true;
        }
    }
}

/// The operations of a commit, in the order of the frame. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Ops<'a> {
    frame: &'a [u8],
    ops: &'a [Op],
    len: usize,
}

impl<'a> Ops<'a> {
    pub(crate) fn new(frame: &'a [u8], ops: &'a [Op]) -> Self {
        let len = ops.iter().filter(|op| !op.left_out).count();
        Self { frame, ops, len }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none: a commit that only has a new revision.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Views of them.
    pub fn iter(&self) -> impl Iterator<Item = OpView<'a>> + use<'a> {
        let frame = self.frame;
        self.ops
            .iter()
            .filter(|op| !op.left_out)
            .map(move |op| view(frame, op))
    }
}

impl std::fmt::Debug for Ops<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn view<'a>(frame: &'a [u8], op: &Op) -> OpView<'a> {
    let path = std::str::from_utf8(op.path.of(frame)).unwrap_or_default();
    let (collection, rkey) = path.split_at_checked(op.collection_len).unwrap_or_default();
    OpView {
        action: op.action,
        collection,
        rkey: rkey.get(1..).unwrap_or_default(),
        record: op.cid.map(|cid| (cid, op.record.of(frame))),
        fault: op.fault,
    }
}

/// Refuses more operations than the limit.
pub(crate) fn check_count(count: u64, limit: usize) -> Result<(), DecodeError> {
    if usize::try_from(count).is_ok_and(|count| count <= limit) {
        Ok(())
    } else {
        Err(DecodeError::new(
            Reason::TooLarge,
            format!("{count} ops, the limit is {limit}"),
        ))
    }
}
