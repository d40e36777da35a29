//! Why a snapshot is not taken.

use crate::decode::Cid;
use crate::decode::car::CarError;

/// Why a snapshot is not taken. Nothing of it may be written then.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes end before the CAR does.
    #[error("the CAR ends inside a section")]
    Truncated,
    /// Not a CAR: the header or a length.
    #[error("{0}")]
    BadCar(CarError),
    /// A block has another hash than its CID says.
    #[error("the bytes of block {0} have another hash")]
    BadCid(Cid),
    /// More of something than the limit allows.
    #[error("more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// What is allowed.
        limit: u64,
    },
    /// More blocks than the limit.
    #[error("more than {0} blocks")]
    TooManyBlocks(u64),
    /// The root block is absent: nothing is newer than what `since` named, if that was asked for.
    #[error("the root block {0} is absent")]
    RootAbsent(Cid),
    /// The root is not a commit of a version that is read.
    #[error("the root block {0} is not a commit: {1}")]
    BadCommit(Cid, String),
    /// The commit is of another repository.
    #[error("the repository is of {0}")]
    WrongDid(String),
    /// The revision is more than 5 minutes ahead of our clock.
    #[error("rev {0} is more than 5 minutes ahead of the clock")]
    RevAhead(crate::decode::Tid),
    /// No key of the account made the signature.
    #[error("the signature of the commit does not hold: {0}")]
    BadSignature(String),
    /// A node of the tree, or the block of a record, is not in the CAR.
    #[error("block {cid} of {path} is absent")]
    MissingBlock {
        /// The block.
        cid: Cid,
        /// The record's path, or after which path the subtree begins.
        path: String,
    },
    /// A node that is none, keys out of order, a path that is none.
    #[error("block {cid} of the tree: {what}")]
    BadTree {
        /// The node.
        cid: Cid,
        /// What exactly.
        what: String,
    },
    /// Other fetches hold the memory that this one needs: worth a later try.
    #[error("no memory is left in backfill.max_bytes")]
    NoMemory,
    /// The temporary file failed.
    #[error("temporary file: {0}")]
    Spill(#[from] std::io::Error),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl SnapshotError {
    /// The label, of few values.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadCar(_) => "bad_car",
            Self::BadCid(_) => "bad_cid",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyBlocks(_) => "too_many_blocks",
            Self::RootAbsent(_) => "root_absent",
            Self::BadCommit(..) => "bad_commit",
            Self::WrongDid(_) => "wrong_did",
            Self::RevAhead(_) => "rev_ahead",
            Self::BadSignature(_) => "bad_signature",
            Self::MissingBlock { .. } => "missing_block",
            Self::BadTree { .. } => "bad_tree",
            Self::NoMemory => "no_memory",
            Self::Spill(_) => "spill",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the trouble is ours, and the same bytes may be taken later.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::NoMemory | Self::Spill(_) | Self::Cancelled)
    }
}
