//! What goes wrong, and what a reader that does everything right makes of it.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::content::mix;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal => $outcome:expr,)*) => {
        /// A fault of a DID, or of a host and with it of all its DIDs.
        ///
        /// `since` and `listRecords` are answered with the same transport faults as `getRepo`; the faults inside a CAR are in each
        /// CAR of the repository that has a block which can be broken so.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
        #[value(rename_all = "snake_case")]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)*];

            /// The name, as on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }

            pub(super) fn outcome(self) -> Outcome {
                match self {
                    $(Self::$fault => $outcome,)*
                }
            }
        }
    };
}

/// What a fault leads to.
pub(super) enum Outcome {
    /// The records all the same.
    Records,
    Fails(Failure),
    Inactive(&'static str),
}

use Outcome::{Fails, Inactive, Records};

faults! {
    /// The CAR dribbles in over [`Options::slow`](super::Options::slow).
    Slow = "slow" => Records,
    /// The connection is closed without an answer.
    Dead = "dead" => Fails(Failure::Unreachable),
    /// No answer comes, and the connection stays.
    Hanging = "hanging" => Fails(Failure::TimedOut),
    /// The CAR stops in the middle, and the connection stays.
    Stalled = "stalled" => Fails(Failure::TimedOut),
    /// The connection is closed in the middle of the CAR.
    Cut = "cut" => Fails(Failure::Truncated),
    /// The CAR ends inside a block, and the answer is in order otherwise.
    Truncated = "truncated" => Fails(Failure::Truncated),
    /// A bit of a record's block is wrong.
    CorruptBlock = "corrupt_block" => Fails(Failure::Corrupt),
    /// The commit is of another DID.
    WrongDid = "wrong_did" => Fails(Failure::WrongDid),
    /// The signature is of a key that was never the account's.
    BadSignature = "bad_signature" => Fails(Failure::BadSignature),
    /// The signature is right but for the sign of S.
    HighS = "high_s" => Fails(Failure::BadSignature),
    /// A record's block is not in the CAR, nor can it be had by itself.
    MissingBlock = "missing_block" => Fails(Failure::MissingBlock),
    /// The root of the tree is not in the CAR.
    MissingNode = "missing_node" => Fails(Failure::MissingBlock),
    /// A block's length is nearly 2^63.
    HugeVarint = "huge_varint" => Fails(Failure::Hostile),
    /// The CAR never ends; each block of it is right.
    Endless = "endless" => Fails(Failure::Hostile),
    /// A signed tree that is a chain of 4,000 nodes.
    DeepChain = "deep_chain" => Fails(Failure::Hostile),
    /// A signed tree whose one node has 150,000 entries.
    HugeNode = "huge_node" => Fails(Failure::Hostile),
    /// Redirects to itself.
    RedirectLoop = "redirect_loop" => Fails(Failure::Redirected),
    /// Redirects to 169.254.169.254, where clouds keep their secrets.
    RedirectPrivate = "redirect_private" => Fails(Failure::Redirected),
    /// The first 3 requests for the repository are answered 503; of a host, the first 10 of all.
    Recovering = "recovering" => Records,
    /// Every answer is a 500 in JSON.
    Broken = "broken" => Fails(Failure::Server),
    /// Every answer is a 502 in HTML.
    Html = "html" => Fails(Failure::Server),
    /// `since` is ignored: every CAR is full.
    IgnoresSince = "ignores_since" => Records,
    /// Lists give a `rev` that is a year too old; of a host, its list names accounts besides that nobody knows.
    LyingList = "lying_list" => Records,
    /// `listRecords` gives values that are not those of their CIDs.
    LyingValues = "lying_values" => Records,
    /// Lists name it, but its host has no such repository.
    NotThere = "not_there" => Inactive("deleted"),
    /// Deactivated by its owner.
    Deactivated = "deactivated" => Inactive("deactivated"),
    /// Taken down.
    TakenDown = "taken_down" => Inactive("takendown"),
    /// Suspended.
    Suspended = "suspended" => Inactive("suspended"),
    /// Deleted on its host; the DID document is still there.
    Deleted = "deleted" => Inactive("deleted"),
    /// Deleted, and its DID has been tombstoned.
    Tombstoned = "tombstoned" => Inactive("deleted"),
    /// Moves to another host at the moment when its repository is first asked for. The old host says that it is deactivated
    /// or not there from then on.
    Moves = "moves" => Records,
    /// Was brought in by `importRepo`: the DID document has a new key, the commit is old and of the old key, and
    /// `getLatestCommit` and lists name it with a newer `rev`.
    Imported = "imported" => Records,
}

impl Fault {
    /// Whether it is of the answers to all requests about a repository, not only of its CAR.
    pub(super) fn is_of_transport(self) -> bool {
        matches!(
            self,
            Self::Dead
                | Self::Hanging
                | Self::RedirectLoop
                | Self::RedirectPrivate
                | Self::Recovering
                | Self::Broken
                | Self::Html
        )
    }

    /// Whether only a PLC directory makes it possible.
    pub(super) fn needs_plc(self) -> bool {
        matches!(self, Self::Tombstoned | Self::Imported)
    }
}

/// Why a repository can't be had, as classes that a reader's own reasons are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// No connection, or one that is closed without an answer.
    Unreachable,
    /// Nothing comes any more.
    TimedOut,
    /// It ends in the middle.
    Truncated,
    /// A block is not what its CID says.
    Corrupt,
    /// It is of another DID.
    WrongDid,
    /// The signature does not hold.
    BadSignature,
    /// A block is missing.
    MissingBlock,
    /// Larger or deeper than any limit, or lengths that can't be.
    Hostile,
    /// A redirect that must not be followed, or not for ever.
    Redirected,
    /// 5xx, however often it is asked.
    Server,
}

impl Failure {
    /// Whether nothing whole comes from the host, so that another place may be asked.
    pub(super) fn is_of_host(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::TimedOut | Self::Truncated | Self::Redirected | Self::Server
        )
    }
}

/// Draws a fault by the shares, from the seed and a number alone.
pub(super) fn draw(shares: &[(Fault, f64)], seed: u64, at: usize) -> Option<Fault> {
    let mut roll: f64 = ChaCha8Rng::seed_from_u64(mix(seed, at)).random();
    for (fault, share) in shares {
        if roll < *share {
            return Some(*fault);
        }
        roll -= share;
    }
    None
}
