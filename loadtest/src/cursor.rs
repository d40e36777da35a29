//! Where a subscription starts (protocol.md, section 3): the spec's way and those of real relays.

use crate::log::FrameLog;

/// What a relay does with a cursor before the oldest number that it retains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Outdated {
    /// `#info OutdatedCursor`, then all that is retained, as the spec says.
    #[default]
    Info,
    /// All that is retained, without a word.
    SilentOldest,
    /// What is new from now on, without a word.
    SilentLive,
}

/// What a relay does with a cursor ahead of its newest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Future {
    /// Error frame `FutureCursor`, then close, as the spec says.
    #[default]
    Error,
    /// All that is retained, without a word.
    SilentOldest,
    /// What is new from now on, without a word.
    SilentLive,
}

/// What a relay does with a cursor that it could serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Retained {
    /// All that follows it.
    #[default]
    Served,
    /// All that is retained, without a word.
    SilentOldest,
    /// What is new from now on, without a word.
    SilentLive,
}

/// How cursors are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursors {
    /// Replay from the cursor's own number on (`>=`, as the spec and rainbow do) and not after it (`>`, as PDS and relay do).
    pub inclusive: bool,
    /// A cursor that is too old.
    pub outdated: Outdated,
    /// A cursor from the future.
    pub future: Future,
    /// A cursor that is neither, nor 0.
    pub retained: Retained,
}

/// What a new subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Entries from this index on.
    From(usize),
    /// `OutdatedCursor`, then entries from this index on.
    Outdated(usize),
    /// `FutureCursor` and the end.
    Refused,
}

/// Numbers from `oldest` up to entry `head` are retained and published.
pub(crate) fn place(
    log: &FrameLog,
    oldest: u64,
    head: usize,
    cursor: Option<u64>,
    how: Cursors,
) -> Placement {
    let oldest = log.position_in(log.beginning(head)..head, oldest);
    let Some(cursor) = cursor else {
        return Placement::From(head);
    };
    let newest = head
        .checked_sub(1)
        .map_or(0, |last| log.entries()[last].seq);
    if cursor == 0 {
        return Placement::From(oldest);
    }
    if cursor > newest {
        return match how.future {
            Future::Error => Placement::Refused,
            Future::SilentOldest => Placement::From(oldest),
            Future::SilentLive => Placement::From(head),
        };
    }
    let first = log.entries().get(oldest).map_or(0, |entry| entry.seq);
    if cursor + 1 < first {
        return match how.outdated {
            Outdated::Info => Placement::Outdated(oldest),
            Outdated::SilentOldest => Placement::From(oldest),
            Outdated::SilentLive => Placement::From(head),
        };
    }
    let wanted = if how.inclusive { cursor } else { cursor + 1 };
    Placement::From(match how.retained {
        Retained::Served => log.position_in(oldest..head, wanted),
        Retained::SilentOldest => oldest,
        Retained::SilentLive => head,
    })
}
