//! What a relay has of a gap, and what has to be done about it.
//!
//! A relay may start silently at the oldest or at the newest frame, skip in its playback, count with holes, or count anew. So what
//! comes is compared with what was asked: the frame behind which the gap begins, a cursor within the gap, the oldest frame.

use super::seek::{Found, Probes, Seek, SeekOptions, seek};
use crate::ledger::{Gap, Resume};
use crate::relay::{Notice, Probe, ProbeError};

/// How far before a gap a relay is asked that starts elsewhere when it is asked for the gap itself.
const BEFORE: u64 = 1_000;
/// A frame's time may differ by so much from that of the ledger, which is a running median (microseconds).
const TOLERANCE: u64 = 3 * 3_600_000_000;

/// Numbers that were never used take no longer than this (microseconds); where frames are rare, than the span of those behind.
const HOLE: u64 = 60_000_000;
/// Where frames are further apart (microseconds), or fewer came, time tells nothing of what may lie between two of them.
const RARE: (u64, usize) = (10_000_000, 5);

/// By how many times the span of a probe's frames the ledger's time may lag.
const MEDIAN_LAG: u64 = 8;

/// What has to be done about a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be read from here on.
    Read(Resume),
    /// The relay never used these numbers: nothing is missing.
    Hole,
    /// What lies before this number and time (microseconds) is older than what the relay retains; the rest is to be read.
    Expired {
        /// The last number that is lost.
        to_seq: u64,
        /// Time at it.
        to_time: u64,
    },
    /// The relay has what is before and what is behind it, and does not serve it however it is asked.
    Skipped,
    /// Its numbers are of other times than those of the ledger: of another sequence.
    CountsAnew,
    /// Nothing can be said now: why.
    Later(&'static str),
}

/// A number and the time of its frame (microseconds).
pub type Place = (u64, u64);

/// Asks for a gap for the `attempt`th time (from 0) since it has shrunk. Another place of the ledger is the witness if the
/// numbers seem to be others than they were.
///
/// # Errors
/// If the relay can't be asked.
pub async fn look(
    probes: &mut impl Probes,
    gap: &Gap,
    attempt: u32,
    witness: Option<Place>,
) -> Result<Verdict, ProbeError> {
    match gap.from_seq {
        Some(from) => behind(probes, gap, from, attempt, witness).await,
        None if gap.from_time == 0 => oldest(probes, gap).await,
        None => since(probes, gap).await,
    }
}

/// A gap of all that the relay has before what is held.
async fn oldest(probes: &mut impl Probes, gap: &Gap) -> Result<Verdict, ProbeError> {
    let probe = probes.probe(Some(0)).await?;
    Ok(match probe.first() {
        Some(seq) => from_oldest(gap, seq, probe.time.unwrap_or(gap.to_time)),
        None => Verdict::Later("the relay sends no frame"),
    })
}

/// A gap of which only the time is known.
async fn since(probes: &mut impl Probes, gap: &Gap) -> Result<Verdict, ProbeError> {
    let Seek { found, .. } = seek(probes, gap.from_time, &SeekOptions::default()).await?;
    let from = |cursor: u64| {
        // At least one frame is read, which says that the rest of the gap is empty.
        let last = gap.to_seq.unwrap_or(u64::MAX).saturating_sub(1);
        Verdict::Read(Resume {
            generation: gap.generation,
            seq: cursor.min(last),
            time: gap.from_time,
            anchored: false,
        })
    };
    Ok(match found {
        Found::At { cursor, .. } => from(cursor),
        Found::Head { cursor, .. } => from(cursor.saturating_sub(1)),
        Found::Oldest { seq, time } => from_oldest(gap, seq, time),
        Found::Silent => Verdict::Later("the relay sends no frame"),
    })
}

/// A gap that begins, in time, before the oldest frame.
fn from_oldest(gap: &Gap, oldest: u64, time: u64) -> Verdict {
    let to_seq = gap.to_seq.unwrap_or(u64::MAX);
    match oldest.saturating_sub(1).min(to_seq) {
        // The relay never had anything older.
        0 => Verdict::Read(Resume {
            generation: gap.generation,
            seq: 0,
            time: if gap.from_time > 0 {
                gap.from_time
            } else {
                time
            },
            anchored: false,
        }),
        last => Verdict::Expired {
            to_seq: last,
            to_time: time.clamp(gap.from_time, gap.to_time),
        },
    }
}

/// A gap behind a number that is held.
async fn behind(
    probes: &mut impl Probes,
    gap: &Gap,
    from: u64,
    attempt: u32,
    witness: Option<Place>,
) -> Result<Verdict, ProbeError> {
    let probe = probes.probe(Some(from.saturating_sub(1))).await?;
    let Some(first) = probe.first() else {
        return Ok(nothing_came(&probe));
    };
    let to = gap.to_seq.unwrap_or(u64::MAX);
    if first > from.saturating_add(1) {
        return starts_behind(probes, gap, (from, to), first, attempt).await;
    }
    if probe.last().is_some_and(|last| last < from) && first.saturating_add(1) < from {
        if is_newer(&probe, gap) {
            return Ok(Verdict::Later("the relay counts anew, in lower numbers"));
        }
        // It starts at its oldest, whatever is asked for: the gap comes once all before it was read.
        return Ok(read(gap, from, false));
    }
    if is_of_another_time(&probe, from, gap.from_time) {
        // The time of one place may have been noted wrongly, that of two was not.
        match is_of_its_time(probes, witness).await? {
            Some(true) => {}
            Some(false) => return Ok(Verdict::CountsAnew),
            None => {
                return Ok(Verdict::Later(
                    "the frame before it is of another time than the ledger says",
                ));
            }
        }
    }
    let behind = probe.samples.iter().find(|sample| sample.seq > from);
    let anchored = probe.samples.iter().any(|sample| sample.seq == from);
    if anchored && behind.is_some_and(|next| next.seq > to) {
        let middle = probes.probe(Some(from + (to - from) / 2)).await?;
        if middle.first().is_some_and(|first| first > to) && !skips_time(&middle, gap) {
            return Ok(Verdict::Hole);
        }
    }
    Ok(match attempt {
        0 => read(gap, from, anchored),
        1 => read(gap, from.saturating_sub(BEFORE), false),
        // A playback that breaks off at this place may serve the rest.
        2 if to - from > 1 && to < u64::MAX => read(gap, from + (to - from) / 2, false),
        _ => given_up(gap),
    })
}

/// Where it ends nobody knows: then it can't be written down as lost.
fn given_up(gap: &Gap) -> Verdict {
    match gap.to_seq {
        Some(_) => Verdict::Skipped,
        None => Verdict::Later("the relay does not serve what it has behind this number"),
    }
}

/// The relay starts behind the gap's beginning: it no longer has it, or starts elsewhere than it was asked to.
async fn starts_behind(
    probes: &mut impl Probes,
    gap: &Gap,
    (from, to): (u64, u64),
    first: u64,
    attempt: u32,
) -> Result<Verdict, ProbeError> {
    let all = probes.probe(Some(0)).await?;
    let Some(oldest) = all.first() else {
        return Ok(nothing_came(&all));
    };
    // The retention moves while it is asked for.
    let oldest = oldest.min(first);
    if oldest > from.saturating_add(1) {
        let time = all.time.unwrap_or(gap.to_time);
        let last = (oldest - 1).min(to);
        let to_time = match last < to {
            true => time.clamp(gap.from_time, gap.to_time),
            false => gap.to_time,
        };
        return Ok(Verdict::Expired {
            to_seq: last,
            to_time,
        });
    }
    Ok(match attempt {
        0 => read(gap, from, false),
        1 => read(gap, from.saturating_sub(BEFORE), false),
        2 => read(gap, 0, false),
        _ => given_up(gap),
    })
}

fn read(gap: &Gap, seq: u64, anchored: bool) -> Verdict {
    Verdict::Read(Resume {
        generation: gap.generation,
        seq,
        time: gap.from_time,
        anchored,
    })
}

fn nothing_came(probe: &Probe) -> Verdict {
    Verdict::Later(match &probe.notice {
        Some(Notice::FutureCursor) => "the relay has not come to these numbers",
        Some(Notice::Error(_)) => "the relay sends an error",
        _ => "the relay sends no frame",
    })
}

/// Whether so much time lies between the frame behind which the gap begins and those of a probe, which are behind it, that frames
/// are missing, not numbers. Where frames are rare it can't be told.
fn skips_time(probe: &Probe, gap: &Gap) -> bool {
    let count = probe.samples.len();
    let steps = u64::try_from(count).unwrap_or(u64::MAX).saturating_sub(1);
    count >= RARE.1 && span(probe) <= RARE.0 * steps && is_newer(probe, gap)
}

/// Whether the frames of a probe are clearly newer than the one behind which a gap begins.
fn is_newer(probe: &Probe, gap: &Gap) -> bool {
    let limit = gap
        .from_time
        .saturating_add(HOLE)
        .saturating_add(lag(probe));
    gap.from_time > 0 && probe.time.is_some_and(|time| time > limit)
}

/// How far the ledger's time may lag, which is a running median: where frames are rare, by as much as a few of them are apart.
fn lag(probe: &Probe) -> u64 {
    span(probe).saturating_mul(MEDIAN_LAG)
}

/// How far apart the times of a probe's frames are.
fn span(probe: &Probe) -> u64 {
    let times = || probe.samples.iter().filter_map(|sample| sample.time);
    times().max().unwrap_or_default() - times().min().unwrap_or_default()
}

/// Whether the frame at a place has the time that the ledger says; `None` where it does not come.
async fn is_of_its_time(
    probes: &mut impl Probes,
    place: Option<Place>,
) -> Result<Option<bool>, ProbeError> {
    let Some((seq, time)) = place else {
        return Ok(None);
    };
    let probe = probes.probe(Some(seq.saturating_sub(1))).await?;
    let came = probe.samples.iter().any(|sample| sample.seq == seq);
    Ok(came.then(|| !is_of_another_time(&probe, seq, time)))
}

/// Whether a frame has another time than the ledger says.
fn is_of_another_time(probe: &Probe, seq: u64, known: u64) -> bool {
    let own = probe.samples.iter().find(|sample| sample.seq == seq);
    let own = own.and_then(|sample| sample.time);
    let tolerance = TOLERANCE.saturating_add(lag(probe));
    let far = |time: u64| time.abs_diff(known) > tolerance;
    known > 0 && own.is_some_and(far) && probe.time.is_some_and(far)
}

#[cfg(test)]
mod tests;
