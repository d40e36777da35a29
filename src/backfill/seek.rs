//! Seek by time: the cursor from which a relay serves all that is of a wall-clock time or later.
//!
//! A stream has no index by time, but its frames carry one, which mostly grows with `seq`. So the relay is [probed](Probes):
//! what is the oldest it has, what is new, and then, at cursors interpolated between, of what time is what follows? A handful of
//! probes does for the 90 million frames of three days.
//!
//! Rules:
//! - **Never late.** The answer is a place whose frames are at least [`SeekOptions::margin`] older than what is wanted, since
//!   `time` is not monotonic. The answer is right if no frame is stamped later than frames that come after it by more than
//!   that. A place is believed only when a second probe shortly before it agrees, so that one host that delivers its
//!   backlog in one burst does not mislead, unless most of half a minute's frames are its.
//! - **A little early.** By up to [`SeekOptions::slack`] more, or by [`SeekOptions::share`] of the window's frames, whichever is
//!   reached first: beside an outage there is no cursor of the right time. Where probes run out it is earlier still, by much where
//!   nothing is new and the head is not known.
//! - **At most [`SeekOptions::probes`] probes**, whatever the relay does.
//! - What came is compared with what was asked. A relay that starts elsewhere, is silent, or sends frames without a time is asked
//!   beside the place; a relay that dropped what was its oldest is asked for its oldest again.

mod bracket;
mod search;
#[cfg(test)]
mod tests;

use std::future::Future;

use crate::decode::time::format_datetime;
use crate::relay::{Probe, ProbeError, Prober};

use search::{Search, Step};

/// Who can be asked what a relay serves at a cursor.
pub trait Probes {
    /// What follows `cursor`, or `None`: what is new.
    fn probe(
        &mut self,
        cursor: Option<u64>,
    ) -> impl Future<Output = Result<Probe, ProbeError>> + Send;
}

impl Probes for Prober {
    async fn probe(&mut self, cursor: Option<u64>) -> Result<Probe, ProbeError> {
        let probe = Prober::probe(self, cursor).await?;
        tracing::debug!(relay = %self.relay(), cursor, saw = %probe, "probed");
        Ok(probe)
    }
}

/// How a time is sought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeekOptions {
    /// How far a frame's `time` may be behind that of an earlier frame, in microseconds; the answer is so much earlier.
    pub margin: u64,
    /// How much earlier than that it may be besides, in microseconds.
    pub slack: u64,
    /// The share of the window's frames by which it may be early whatever their times.
    pub share: f64,
    /// How many probes there may be; at least 4 are made if they are needed.
    pub probes: u32,
}

impl Default for SeekOptions {
    /// A minute of margin, a minute of slack, a 500th of the window, 12 probes.
    fn default() -> Self {
        Self {
            margin: 60_000_000,
            slack: 60_000_000,
            share: 0.002,
            probes: 12,
        }
    }
}

/// Where a time is in a relay's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Behind this cursor is all that is of the wanted time or later.
    At {
        /// The cursor; the frame behind it is the first that has to be read, whether the relay serves `>` or `>=`.
        cursor: u64,
        /// Of what time the frames behind it are, in microseconds; `None` if those of the oldest have no time that can be read.
        time: Option<u64>,
    },
    /// All that the relay has is later, or not earlier by the margin. Start at cursor 0; what is missing is from the wanted time to this.
    Oldest {
        /// The oldest number.
        seq: u64,
        /// Its time, in microseconds.
        time: u64,
    },
    /// The wanted time is after all that the relay has.
    Head {
        /// Behind this cursor is what is new.
        cursor: u64,
        /// Of what time the newest frames are, in microseconds.
        time: u64,
    },
    /// No frame came, neither of the oldest nor a new one: the relay has nothing, or does not serve it.
    Silent,
}

/// A place that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seek {
    /// The place.
    pub found: Found,
    /// How many probes it took.
    pub probes: u32,
}

/// Finds where `wanted` (microseconds since the epoch) is in the stream.
///
/// # Errors
/// If the relay can't be asked.
pub async fn seek(
    probes: &mut impl Probes,
    wanted: u64,
    options: &SeekOptions,
) -> Result<Seek, ProbeError> {
    let mut search = Search::new(wanted, options);
    loop {
        match search.step() {
            Step::Ask(cursor) => {
                let probe = probes.probe(cursor).await?;
                search.take(&probe);
            }
            Step::Done(found) => {
                let seek = Seek {
                    found,
                    probes: search.asked(),
                };
                tell(wanted, &seek);
                return Ok(seek);
            }
        }
    }
}

fn tell(wanted: u64, seek: &Seek) {
    let (place, cursor, time) = match seek.found {
        Found::At { cursor, time } => ("within", Some(cursor), time),
        Found::Oldest { seq, time } => ("before the oldest", Some(seq), Some(time)),
        Found::Head { cursor, time } => ("after the newest", Some(cursor), Some(time)),
        Found::Silent => ("unknown: no frame came", None, None),
    };
    tracing::info!(
        wanted = format_datetime(wanted),
        place,
        cursor,
        time = time.map(format_datetime),
        probes = seek.probes,
        "sought a time in the relay's stream",
    );
}
