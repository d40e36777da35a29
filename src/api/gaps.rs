//! `/admin/gaps`: what is held, and what is missing.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::on;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::auth::Access;
use super::error::ApiError;
use super::list::json_of;
use super::routes::{Answer, Route, Verb, schema};
use crate::decode::time::format_datetime;
use crate::ledger::{self, Gap, Loss, Report, Span, Wanted};

const DAY: f64 = 86_400e6;

pub(super) const ROUTES: &[Route] = &[Route {
    answers: &[Answer::json(200, "the ledger", schema::<Gaps>)],
    ..Route::new(
        Verb::Get,
        &["/admin/gaps"],
        Access::Read,
        "What of the window is held and what is missing",
        |method| on(method, show),
    )
}];

/// The answer of `GET /admin/gaps`. Times are RFC 3339, slots are ranges as in `0-127,130`, with a step
/// where there is one: `1-255/2`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gaps {
    /// The length of the window in days: 0 is none, -1 all that the relays retain.
    pub days: f64,
    /// Where the window begins, if it does at a time.
    pub wanted_from: Option<String>,
    /// The time of this answer.
    pub now: String,
    /// Whether nothing is missing.
    pub complete: bool,
    /// Time in which any slot misses something, in seconds.
    pub missing_seconds: f64,
    /// What is missing, in the order of relay, generation and `seq`.
    pub missing: Vec<Missing>,
    /// What is held, in the same order.
    pub held: Vec<Interval>,
    /// Frames that can't be read and were passed; nothing fetches them.
    pub passed: Vec<Interval>,
    /// Where what slots hold ends.
    pub tails: Vec<Tail>,
}

/// An interval of a relay's stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// Host of the relay.
    pub relay: String,
    /// Which of its numberings.
    pub generation: u32,
    /// Exclusive.
    pub from_seq: Option<u64>,
    /// Inclusive.
    pub to_seq: Option<u64>,
    /// Time at `from_seq`; null where it is not known.
    pub from: Option<String>,
    /// Time at `to_seq`.
    pub to: String,
    /// The slots.
    pub slots: String,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Missing {
    /// Where: a null `from_seq` is known by its time only, a null `to_seq` is now.
    #[serde(flatten)]
    pub interval: Interval,
    /// What becomes of it.
    pub state: MissingState,
    /// Why it can't be replayed, if it can't.
    pub reason: Option<MissingReason>,
    /// Whether it is to be repaired from the repositories.
    pub repair: bool,
}

/// What becomes of what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingState {
    /// Worker 0 will replay it.
    Pending,
    /// The worker of these slots will read it: it is behind the others, or away.
    Behind,
    /// No relay can serve it, or it must not be replayed.
    Lost,
}

/// Why something can't be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingReason {
    /// It is older than what the relay retains.
    Expired,
    /// The relay skips it, however it is asked.
    Skipped,
    /// It is so old that a replay could bring back what was deleted since.
    Stale,
}

/// Where what slots hold ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tail {
    /// Host of the relay.
    pub relay: String,
    /// Which of its numberings.
    pub generation: u32,
    /// The last number.
    pub seq: u64,
    /// Its time.
    pub time: String,
    /// How long ago that was, in seconds.
    pub seconds_ago: f64,
    /// The slots.
    pub slots: String,
}

/// `GET /admin/gaps`.
pub(crate) async fn show(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    let facts = state.store.facts().await.map_err(ApiError::store)?;
    let wanted = (state.wanted)();
    json_of(&Gaps::of(&ledger::report(&facts, &wanted), &wanted))
}

impl Gaps {
    /// What a report says.
    pub fn of(report: &Report, wanted: &Wanted) -> Self {
        let now = wanted.now;
        let behind: Vec<Gap> = report
            .behind(wanted.overlap)
            .map(|tail| Gap::behind(tail, report.newest()))
            .collect();
        let all = || report.missing.iter().chain(&behind);
        let mut missing: Vec<Missing> = report
            .missing
            .iter()
            .map(|gap| Missing::of(gap, wanted))
            .collect();
        missing.extend(behind.iter().map(|gap| Missing {
            state: MissingState::Behind,
            ..Missing::of(gap, wanted)
        }));
        Self {
            days: days(wanted),
            wanted_from: wanted.since.filter(|since| *since > 0).map(format_datetime),
            now: format_datetime(now),
            complete: missing.is_empty(),
            missing_seconds: seconds(ledger::missing_micros(all())),
            missing,
            held: report.held.iter().map(Interval::of).collect(),
            passed: report.passed.iter().map(Interval::of).collect(),
            tails: report
                .tails
                .iter()
                .map(|tail| Tail::of(tail, now))
                .collect(),
        }
    }
}

impl Interval {
    fn of(span: &Span) -> Self {
        Self {
            relay: span.relay.clone(),
            generation: span.generation,
            from_seq: Some(span.from_seq),
            to_seq: Some(span.to_seq),
            from: known(span.from_time),
            to: format_datetime(span.to_time),
            slots: span.slots.to_string(),
        }
    }
}

impl Missing {
    fn of(gap: &Gap, wanted: &Wanted) -> Self {
        Self {
            interval: Interval {
                relay: gap.relay.clone(),
                generation: gap.generation,
                from_seq: gap.from_seq,
                to_seq: gap.to_seq,
                from: known(gap.from_time),
                to: format_datetime(gap.to_time),
                slots: gap.slots.to_string(),
            },
            state: match gap.lost {
                None => MissingState::Pending,
                Some(_) => MissingState::Lost,
            },
            reason: gap.lost.map(|loss| match loss {
                Loss::Expired => MissingReason::Expired,
                Loss::Skipped => MissingReason::Skipped,
                Loss::Stale => MissingReason::Stale,
            }),
            repair: gap.is_worth_a_repair(wanted),
        }
    }
}

impl Tail {
    fn of(tail: &Span, now: u64) -> Self {
        Self {
            relay: tail.relay.clone(),
            generation: tail.generation,
            seq: tail.to_seq,
            time: format_datetime(tail.to_time),
            seconds_ago: seconds(now.saturating_sub(tail.to_time)),
            slots: tail.slots.to_string(),
        }
    }
}

fn known(time: u64) -> Option<String> {
    (time > 0).then(|| format_datetime(time))
}

#[expect(clippy::cast_precision_loss, reason = "a few decimals are enough")]
fn days(wanted: &Wanted) -> f64 {
    match wanted.since {
        None => 0.0,
        Some(0) => -1.0,
        Some(since) => (wanted.now.saturating_sub(since) as f64 / DAY * 1e4).round() / 1e4,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few decimals are enough")]
fn seconds(micros: u64) -> f64 {
    (micros / 1_000) as f64 / 1e3
}
