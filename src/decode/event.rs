//! What a frame says once it is decoded. Everything borrows from the frame (protocol.md, section 2).

use super::ops::Ops;
use super::{Cid, Tid};

/// A decoded frame.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// `#commit`
    Commit(Commit<'a>),
    /// `#sync`
    Sync(Sync<'a>),
    /// `#identity`
    Identity(Identity<'a>),
    /// `#account`
    Account(Account<'a>),
    /// `#info`, which has no `seq`
    Info(Info<'a>),
    /// A message of a retired or unknown type, or of an unknown `op`: passed over.
    Unknown {
        /// The `t` of its header, if it has one.
        kind: &'a str,
    },
    /// An error frame (`op` −1): the relay closes the connection after it.
    Error {
        /// Such as `FutureCursor` or `ConsumerTooSlow`.
        error: &'a str,
        /// A text for people.
        message: &'a str,
    },
}

/// A `#commit`: new revision of a repository with its operations.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// Number in the relay's stream.
    pub seq: u64,
    /// DID of the repository.
    pub repo: &'a str,
    /// Revision.
    pub rev: Tid,
    /// Revision before, absent for the first commit (and for `""`, which live relays send).
    pub since: Option<Tid>,
    /// Datetime as sent, unvalidated.
    pub time: &'a str,
    /// CID of the commit block.
    pub commit: Cid,
    /// Root of the tree, from the commit block; `None` only where `too_big` left that block out.
    pub data: Option<Cid>,
    /// Root of the tree before (Sync 1.1).
    pub prev_data: Option<Cid>,
    /// `tooBig`: the blocks are incomplete, so that the repository needs a repair.
    pub too_big: bool,
    /// The operations in the order of the frame, without those that a later one on the same path overrides, and, if
    /// `too_big`, without those whose record is not in the frame.
    pub ops: Ops<'a>,
}

/// A create, update or delete of one record.
#[derive(Debug, Clone, Copy)]
pub struct OpView<'a> {
    /// What is done.
    pub action: Action,
    /// NSID.
    pub collection: &'a str,
    /// Record key.
    pub rkey: &'a str,
    /// The record's CID and its bytes; `None` for a delete.
    pub record: Option<(Cid, &'a [u8])>,
    /// How the record breaks the data model, if it does and `DecodeOptions::check_records` is on. It is stored all the same.
    pub fault: Option<RecordFault>,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A record that was not there.
    Create,
    /// A record that was there.
    Update,
    /// A record goes.
    Delete,
}

impl Action {
    /// As in the frame and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// A `#sync`: the repository's state changed in a way that the stream does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Sync<'a> {
    /// Number in the relay's stream.
    pub seq: u64,
    /// DID of the repository.
    pub did: &'a str,
    /// Revision that it now has.
    pub rev: Tid,
    /// Datetime as sent.
    pub time: &'a str,
    /// CID of the commit block that it carries.
    pub commit: Cid,
    /// Root of the tree, from that block.
    pub data: Cid,
}

/// An `#identity`: the DID document or handle may have changed.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Number in the relay's stream.
    pub seq: u64,
    /// The DID.
    pub did: &'a str,
    /// Datetime as sent.
    pub time: &'a str,
    /// The handle, if the message has one. May be `handle.invalid`.
    pub handle: Option<&'a str>,
}

/// An `#account`: whether the account is served by its host.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// Number in the relay's stream.
    pub seq: u64,
    /// The DID.
    pub did: &'a str,
    /// Datetime as sent.
    pub time: &'a str,
    /// Whether the account is to be shown.
    pub active: bool,
    /// Why not, mostly: `deleted`, `takendown`, `suspended`, `deactivated`, `desynchronized`, `throttled`, or any other.
    pub status: Option<&'a str>,
}

/// An `#info` of the relay.
#[derive(Debug, Clone, Copy)]
pub struct Info<'a> {
    /// Such as `OutdatedCursor`.
    pub name: &'a str,
    /// A text for people.
    pub message: Option<&'a str>,
}

/// Why a frame is quarantined. The label is what metrics and the quarantine show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not two items of strict DAG-CBOR, or surplus bytes.
    BadCbor,
    /// A field is missing, of another type, or breaks its syntax.
    BadField,
    /// The CAR in `blocks` is malformed or its root is not the commit.
    BadCar,
    /// A block's bytes do not match its CID.
    CidMismatch,
    /// The block of a record or of the commit is not in the CAR.
    MissingBlock,
    /// The commit block is not a commit of this repository and revision.
    BadCommit,
    /// The `rev` is more than 5 minutes ahead of the clock.
    FutureRev,
    /// A limit of size, count or depth is exceeded.
    TooLarge,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::BadCbor,
        Self::BadField,
        Self::BadCar,
        Self::CidMismatch,
        Self::MissingBlock,
        Self::BadCommit,
        Self::FutureRev,
        Self::TooLarge,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadCbor => "bad_cbor",
            Self::BadField => "bad_field",
            Self::BadCar => "bad_car",
            Self::CidMismatch => "cid_mismatch",
            Self::MissingBlock => "missing_block",
            Self::BadCommit => "bad_commit",
            Self::FutureRev => "future_rev",
            Self::TooLarge => "too_large",
        }
    }
}

/// How a record whose bytes match its CID breaks the AT Protocol data model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordFault {
    /// Not CBOR at all, so that it has no JSON.
    NotCbor,
    /// Nested deeper than 32, so that it gets no JSON.
    TooDeep,
    /// DAG-CBOR that is not canonical: key order, duplicate keys, lengths, surplus bytes.
    NotCanonical,
    /// A value that the data model does not know: a float, `undefined`, another tag, a key that is not text, text that is
    /// not UTF-8, a malformed link or blob, an integer beyond 64 bits with sign.
    BadValue,
    /// Not a map.
    NotMap,
}

impl RecordFault {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::NotCbor,
        Self::TooDeep,
        Self::NotCanonical,
        Self::BadValue,
        Self::NotMap,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotCbor => "not_cbor",
            Self::TooDeep => "too_deep",
            Self::NotCanonical => "not_canonical",
            Self::BadValue => "bad_value",
            Self::NotMap => "not_map",
        }
    }
}
