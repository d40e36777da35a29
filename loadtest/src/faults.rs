//! What goes wrong with connections. All of it can be changed while the server runs.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropKind {
    /// A WebSocket close.
    Clean,
    /// A TCP reset between two frames.
    Reset,
    /// The end of the connection within a frame.
    MidFrame,
    /// One of these by chance.
    #[default]
    Any,
}

/// An HTTP answer instead of the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// 405, 426, 429, 503, or any other.
    pub status: u16,
    /// Seconds of `Retry-After`.
    pub retry_after: Option<u64>,
    /// An HTML page as the body, as proxies send it, and not JSON.
    pub html: bool,
}

impl Refusal {
    /// One that says no more than its status.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            retry_after: None,
            html: false,
        }
    }

    /// 429 with a `Retry-After` in seconds.
    pub fn too_many_requests(seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::status(429)
        }
    }

    /// 503 with an HTML body.
    pub fn unavailable() -> Self {
        Self {
            html: true,
            ..Self::status(503)
        }
    }
}

/// What goes wrong with connections; frames are counted on each connection by itself.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFaults {
    /// Seed of the chances here.
    pub seed: u64,
    /// The connection ends after half to one and a half times so many frames.
    pub drop_every: Option<u64>,
    /// How it ends.
    pub drop_kind: DropKind,
    /// Nothing more is sent or answered after half to one and a half times so many frames.
    pub stall_every: Option<u64>,
    /// How long that lasts; `None`: until the client gives up.
    pub stall_for: Option<Duration>,
    /// A text message after half to one and a half times so many frames.
    pub text_every: Option<u64>,
    /// The first playback that comes to this number goes on at the live head instead, without a word.
    pub jump_to_live: Option<u64>,
    /// Answers to the next connections, used up from the front.
    pub refusals: Vec<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Drop(DropKind),
    Stall(Option<Duration>),
    Text,
}

/// When the next fault of one connection is due, by frames sent.
pub(crate) struct Plan {
    rng: ChaCha8Rng,
    made_from: [Option<u64>; 3],
    due: [Option<u64>; 3],
}

impl Plan {
    pub(crate) fn new(faults: &ConnectionFaults, connection: u64) -> Self {
        let seed = faults.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ connection;
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            made_from: [None; 3],
            due: [None; 3],
        }
    }

    /// Follows changes of the settings.
    pub(crate) fn update(&mut self, faults: &ConnectionFaults, sent: u64) {
        let every = [faults.drop_every, faults.stall_every, faults.text_every];
        for (at, every) in every.into_iter().enumerate() {
            if self.made_from[at] != every {
                self.made_from[at] = every;
                self.due[at] = self.draw(every, sent);
            }
        }
    }

    fn draw(&mut self, every: Option<u64>, sent: u64) -> Option<u64> {
        let every = every?.max(1);
        Some(sent + self.rng.random_range(every.div_ceil(2)..=every + every / 2))
    }

    /// How many more frames may go before something is due.
    pub(crate) fn room(&self, sent: u64) -> u64 {
        let next = self.due.iter().flatten().min();
        next.map_or(u64::MAX, |due| due.saturating_sub(sent))
    }

    /// What is due now, once.
    pub(crate) fn take(&mut self, faults: &ConnectionFaults, sent: u64) -> Option<Fault> {
        let at = self
            .due
            .iter()
            .position(|due| due.is_some_and(|due| due <= sent))?;
        self.due[at] = self.draw(self.made_from[at], sent);
        Some(match at {
            0 => Fault::Drop(match faults.drop_kind {
                DropKind::Any => {
                    let kinds = [DropKind::Clean, DropKind::Reset, DropKind::MidFrame];
                    kinds[self.rng.random_range(0..3)]
                }
                kind => kind,
            }),
            1 => Fault::Stall(faults.stall_for),
            _ => Fault::Text,
        })
    }
}
