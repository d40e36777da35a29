//! What of the ledger the page shows to whoever has a token: a timeline of what is held and missing, and how far each worker is.

use crate::config::Worker;
use crate::ledger::{self, Gap, Loss, Report, Span, Wanted};
use crate::slot::SlotSet;

use super::words::{duration, moment, seconds};

/// The timeline is so wide, in units of its own.
const WIDTH: u64 = 1000;
/// What is missing is drawn at least so wide, for a second in three days is to be seen.
const NARROWEST: u64 = 3;
/// Of more workers than this the timeline has one row for all.
const ROWS: u16 = 16;
/// So many parts of a row are drawn, the newest ones,
const PARTS: usize = 500;
/// and so many gaps are told one by one.
const TOLD: usize = 50;

/// The ledger as the page shows it.
#[derive(Default)]
pub(super) struct LedgerView {
    /// Why there is nothing to show.
    pub(super) trouble: Option<String>,
    pub(super) about: String,
    /// Where the timeline begins.
    pub(super) from: String,
    pub(super) rows: Vec<TimelineRow>,
    /// How much is missing.
    pub(super) missing_seconds: Option<f64>,
    pub(super) missing: Vec<MissingRow>,
    /// What is missing besides.
    pub(super) more: usize,
    pub(super) workers: Vec<WorkerRow>,
}

/// The timeline of some slots.
pub(super) struct TimelineRow {
    pub(super) whose: String,
    /// The picture in words.
    pub(super) words: String,
    pub(super) parts: Vec<Part>,
}

/// A bar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) x: u64,
    pub(super) width: u64,
}

/// Something that is missing.
pub(super) struct MissingRow {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) time: String,
    pub(super) relay: String,
    pub(super) whose: String,
    pub(super) fate: &'static str,
}

/// How far a worker is.
pub(super) struct WorkerRow {
    pub(super) id: u16,
    pub(super) until: String,
    pub(super) behind: String,
}

impl LedgerView {
    /// What a report says.
    pub(super) fn of(report: &Report, wanted: &Wanted, worker: &Worker) -> Self {
        let behind: Vec<Gap> = report
            .behind(wanted.overlap)
            .map(|tail| Gap::behind(tail, report.newest()))
            .collect();
        let missing: Vec<(&Gap, Fate)> = report
            .missing
            .iter()
            .map(|gap| (gap, Fate::of(gap)))
            .chain(behind.iter().map(|gap| (gap, Fate::Behind)))
            .collect();
        let axis = Axis::of(report, wanted);
        let count = worker.count;
        Self {
            trouble: None,
            about: about(wanted),
            from: format!("{} UTC", moment(axis.start)),
            rows: groups(count)
                .into_iter()
                .map(|(whose, slots)| timeline(whose, slots, &axis, report, &missing))
                .collect(),
            missing_seconds: Some(seconds(ledger::missing_micros(
                missing.iter().map(|(gap, _)| *gap),
            ))),
            missing: missing
                .iter()
                .take(TOLD)
                .map(|(gap, fate)| told(gap, *fate, count))
                .collect(),
            more: missing.len().saturating_sub(TOLD),
            workers: (0..count)
                .map(|id| how_far(id, count, report, wanted.now))
                .collect(),
        }
    }

    /// One that can't be shown.
    pub(super) fn unknown(why: String) -> Self {
        Self {
            trouble: Some(why),
            ..Self::default()
        }
    }
}

fn about(wanted: &Wanted) -> String {
    match wanted.since {
        None => {
            "No window is set (BACKFILL_DAYS): wanted is what lies between what is held.".to_owned()
        }
        Some(0) => "Wanted is all that the relay retains.".to_owned(),
        Some(since) => format!("Wanted is all since {} UTC.", moment(since)),
    }
}

/// What becomes of something that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Behind,
    Lost(Loss),
}

impl Fate {
    fn of(gap: &Gap) -> Self {
        gap.lost.map_or(Self::Pending, Self::Lost)
    }

    fn class(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Behind => "behind",
            Self::Lost(_) => "lost",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Pending => "worker 0 will replay it",
            Self::Behind => "its own worker will read it",
            Self::Lost(Loss::Expired) => {
                "no relay retains it: repaired from the repositories, if it is worth it"
            }
            Self::Lost(Loss::Skipped) => "the relay skips it: repaired from the repositories",
            Self::Lost(Loss::Stale) => "too old for a replay: repaired from the repositories",
        }
    }
}

/// Where a time is on the timeline.
struct Axis {
    start: u64,
    end: u64,
}

impl Axis {
    /// From the begin of the window, or of what is missing if that is earlier, to now; without a window from what is held.
    fn of(report: &Report, wanted: &Wanted) -> Self {
        let known = |time: &u64| *time > 0;
        let missing = report.missing.iter().map(|gap| gap.from_time).filter(known);
        let held = report.held.iter().map(|span| span.from_time).filter(known);
        let window = wanted.since.filter(known);
        let held = held.filter(|_| window.is_none());
        let start = missing.chain(held).chain(window).min();
        let end = wanted.now.max(1);
        Self {
            start: start.unwrap_or(end).min(end - 1),
            end,
        }
    }

    /// The place of an interval: from the left, and how wide; nothing where it is outside.
    fn place(&self, from: u64, to: u64, narrowest: u64) -> Option<(u64, u64)> {
        if to < self.start || from > self.end {
            return None;
        }
        let at = |time: u64| {
            let time = time.clamp(self.start, self.end) - self.start;
            let units = u128::from(time) * u128::from(WIDTH) / u128::from(self.end - self.start);
            u64::try_from(units).unwrap_or(WIDTH)
        };
        let width = at(to).saturating_sub(at(from)).max(narrowest);
        Some((at(from).min(WIDTH.saturating_sub(width)), width))
    }
}

/// The rows of the timeline: a worker each.
fn groups(count: u16) -> Vec<(String, SlotSet)> {
    match count {
        2..=ROWS => (0..count)
            .map(|id| (format!("Worker {id}"), SlotSet::owned_by(id, count)))
            .collect(),
        _ => vec![("All slots".to_owned(), SlotSet::ALL)],
    }
}

fn timeline(
    whose: String,
    slots: SlotSet,
    axis: &Axis,
    report: &Report,
    missing: &[(&Gap, Fate)],
) -> TimelineRow {
    let is_ours = |of: SlotSet| !of.intersection(slots).is_empty();
    let held = report.held.iter().filter(|span| is_ours(span.slots));
    let held = held.filter_map(|span| {
        let (x, width) = axis.place(span.from_time, span.to_time, 1)?;
        let class = "held";
        Some(Part { class, x, width })
    });
    let missing = missing.iter().filter(|(gap, _)| is_ours(gap.slots));
    let missing = missing.filter_map(|(gap, fate)| {
        let (x, width) = axis.place(gap.from_time, gap.to_time, NARROWEST)?;
        let class = fate.class();
        Some(Part { class, x, width })
    });
    // What is missing is drawn over what is held: another slot may hold it.
    let held = newest(held.collect());
    let missing = newest(missing.collect());
    let words = format!(
        "{whose}: {} held, {} missing; the table says which",
        parts(held.len()),
        parts(missing.len())
    );
    TimelineRow {
        whose,
        words,
        parts: held.into_iter().chain(missing).collect(),
    }
}

fn parts(count: usize) -> String {
    match count {
        1 => "1 part".to_owned(),
        count => format!("{count} parts"),
    }
}

/// The rightmost ones, each once: slots that hold the same lie on each other.
fn newest(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| (part.x, part.width, part.class));
    parts.dedup();
    parts.split_off(parts.len().saturating_sub(PARTS))
}

fn told(gap: &Gap, fate: Fate, count: u16) -> MissingRow {
    let from = match gap.from_time {
        0 => "the oldest there is".to_owned(),
        time => moment(time),
    };
    let time = match gap.from_time {
        0 => super::words::UNKNOWN.to_owned(),
        from => duration(seconds(gap.to_time.saturating_sub(from))),
    };
    MissingRow {
        from,
        to: moment(gap.to_time),
        time,
        relay: gap.relay.clone(),
        whose: whose(gap.slots, count),
        fate: fate.words(),
    }
}

/// Whose slots these are.
fn whose(slots: SlotSet, count: u16) -> String {
    if slots == SlotSet::ALL {
        return "all".to_owned();
    }
    let workers = (0..count).filter(|id| {
        let owned = SlotSet::owned_by(*id, count);
        !owned.intersection(slots).is_empty()
    });
    let workers: Vec<String> = workers.map(|id| id.to_string()).collect();
    match workers.len() {
        1 => format!("worker {}", workers.concat()),
        2..=8 => format!("workers {}", workers.join(", ")),
        _ => format!("{} slots", slots.len()),
    }
}

/// A worker holds all up to the oldest end of what its slots hold.
fn how_far(id: u16, count: u16, report: &Report, now: u64) -> WorkerRow {
    let owned = SlotSet::owned_by(id, count);
    let is_ours = |span: &&Span| !span.slots.intersection(owned).is_empty();
    let tails = report.tails.iter().filter(is_ours);
    let oldest = tails.map(|tail| tail.to_time).min();
    let unknown = || "nothing is held yet".to_owned();
    WorkerRow {
        id,
        until: oldest.map_or_else(unknown, |time| format!("{} UTC", moment(time))),
        behind: oldest.map_or_else(
            || super::words::UNKNOWN.to_owned(),
            |time| duration(seconds(now.saturating_sub(time))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;
    const NOW: u64 = 1_790_437_941_000_000;

    fn span(from: u64, to: u64, slots: SlotSet) -> Span {
        Span {
            relay: "relay.test".to_owned(),
            generation: 0,
            from_seq: from,
            to_seq: to,
            from_time: NOW - from * HOUR,
            to_time: NOW - to * HOUR,
            slots,
        }
    }

    fn gap(from: u64, to: u64, lost: Option<Loss>, slots: SlotSet) -> Gap {
        Gap {
            relay: "relay.test".to_owned(),
            generation: 0,
            from_seq: None,
            to_seq: None,
            from_time: NOW - from * HOUR,
            to_time: NOW - to * HOUR,
            lost,
            after_held: true,
            slots,
        }
    }

    fn wanted(hours: u64) -> Wanted {
        Wanted {
            since: Some(NOW - hours * HOUR),
            now: NOW,
            ..Wanted::between(SlotSet::ALL)
        }
    }

    #[test]
    fn the_timeline_is_the_window() {
        let report = Report {
            held: vec![span(200, 90, SlotSet::ALL), span(50, 0, SlotSet::ALL)],
            missing: vec![gap(90, 50, None, SlotSet::ALL)],
            tails: vec![span(50, 0, SlotSet::ALL)],
            ..Report::default()
        };
        let worker = Worker { id: 0, count: 1 };
        let view = LedgerView::of(&report, &wanted(100), &worker);
        let part = |class, x, width| Part { class, x, width };
        let drawn = &view.rows[0].parts;
        let all = [
            part("held", 0, 100),
            part("held", 500, 500),
            part("pending", 100, 400),
        ];
        assert_eq!(drawn.as_slice(), all);
        assert_eq!(view.rows.len(), 1);
        assert_eq!(view.missing[0].time, "1 d 16 h");
        assert_eq!(view.missing[0].whose, "all");
        assert_eq!(view.workers[0].behind, "0 s");
    }

    #[test]
    fn workers_have_a_row_each_and_one_behind_is_told() {
        let [even, odd] = [0, 1].map(|id| SlotSet::owned_by(id, 2));
        let report = Report {
            held: vec![span(10, 5, odd), span(10, 0, even)],
            missing: vec![gap(90, 89, Some(Loss::Expired), odd)],
            tails: vec![span(10, 5, odd), span(10, 0, even)],
            ..Report::default()
        };
        let worker = Worker { id: 0, count: 2 };
        let view = LedgerView::of(&report, &wanted(24), &worker);
        let behind = &view.missing[1];
        assert_eq!(
            (behind.whose.as_str(), behind.time.as_str()),
            ("worker 1", "5 h 0 min")
        );
        assert_eq!(view.workers[1].behind, "5 h 0 min");
        let classes: Vec<&str> = view.rows[1].parts.iter().map(|part| part.class).collect();
        assert_eq!(classes, ["held", "lost", "behind"]);
        assert_eq!(view.rows[0].parts.len(), 1);
        // What is missing before the window makes the timeline longer.
        assert_eq!(view.from, format!("{} UTC", moment(NOW - 90 * HOUR)));
    }

    #[test]
    fn an_empty_ledger_is_drawn_too() {
        let nothing = Report::default();
        let worker = Worker { id: 0, count: 256 };
        let wanted = Wanted::between(SlotSet::ALL);
        let view = LedgerView::of(&nothing, &wanted, &worker);
        assert!(view.rows[0].parts.is_empty() && view.missing.is_empty());
        assert_eq!(view.workers.len(), 256);
        assert!(ledger::missing_micros(nothing.missing.iter()) == 0);
    }

    #[test]
    fn a_short_gap_is_seen_and_nothing_is_drawn_outside() {
        let axis = Axis {
            start: NOW - 72 * HOUR,
            end: NOW,
        };
        let second = 1_000_000;
        assert_eq!(axis.place(NOW - second, NOW, NARROWEST), Some((997, 3)));
        assert_eq!(axis.place(0, NOW - 73 * HOUR, NARROWEST), None);
        assert_eq!(axis.place(0, u64::MAX, NARROWEST), Some((0, 1000)));
    }
}
