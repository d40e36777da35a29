//! The watermark of a stream: the highest `seq` at or below which everything is durable.
//!
//! Frames are routed in the order of their `seq` and handed over in chunks; a chunk is outstanding from its first frame until
//! all that it caused is durable. Each outstanding chunk knows the `seq` routed before its first frame, so the watermark is that of
//! the oldest one, or all that was routed where none is outstanding. The stream is cut into spans without gaps; each
//! becomes a fact of the ledger, which grows as the watermark does and never runs ahead of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::slot::SlotSet;
use crate::store::{Fact, FactKind};

/// A point of a stream: a `seq` and the running median of the frames' `time` there, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Point {
    /// Number in the relay's stream.
    pub seq: u64,
    /// Microseconds since the epoch.
    pub time: u64,
}

/// What a span's facts say of where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Host of the relay.
    pub relay: String,
    /// Its `seq` space.
    pub generation: u32,
    /// Microsecond at which the run began.
    pub run: u64,
    /// The slots that are taken in.
    pub slots: SlotSet,
    /// The collections that are stored, as the configuration spells them.
    pub filter: String,
    /// Live or replay.
    pub kind: FactKind,
}

/// The watermark of one stream. Locked once a chunk, never once a frame.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
    /// How many outages of the store there had been when it began.
    outages: u64,
}

#[derive(Debug, Default)]
struct State {
    spans: VecDeque<Span>,
    /// How many spans were dropped from the front: the number of a span is its index plus this.
    retired: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    next_chunk: u64,
}

#[derive(Debug)]
struct Span {
    origin: Arc<Origin>,
    kind: FactKind,
    from: Point,
    routed: Point,
    /// What the ledger was last told.
    saved: Option<u64>,
}

#[derive(Debug)]
struct Outstanding {
    span: u64,
    before: Point,
}

impl Progress {
    /// Of a stream that begins after so many outages of the store.
    pub fn after(outages: u64) -> Self {
        Self {
            state: Mutex::default(),
            outages,
        }
    }

    /// How many outages of the store there had been when it began.
    pub fn outages(&self) -> u64 {
        self.outages
    }

    /// Starts a span after `from`; the one before takes no more frames.
    pub fn begin(&self, origin: Arc<Origin>, from: Point) {
        let kind = origin.kind;
        self.lock().spans.push_back(Span {
            origin,
            kind,
            from,
            routed: from,
            saved: None,
        });
    }

    /// Notes that the frame after the current span, up to `to`, was passed unread, and goes on behind it.
    pub fn pass(&self, to: Point) {
        let mut state = self.lock();
        let Some(last) = state.spans.back() else {
            return;
        };
        let (origin, from) = (last.origin.clone(), last.routed);
        let passed = FactKind::Passed;
        state.spans.push_back(Span {
            origin: origin.clone(),
            kind: passed,
            from,
            routed: to,
            saved: None,
        });
        let kind = origin.kind;
        state.spans.push_back(Span {
            origin,
            kind,
            from: to,
            routed: to,
            saved: None,
        });
    }

    /// Notes how far the stream was routed. Never goes back.
    pub fn routed(&self, to: Point) {
        if let Some(span) = self.lock().spans.back_mut()
            && to.seq >= span.routed.seq
        {
            span.routed = to;
        }
    }

    /// Opens a chunk whose first frame follows `before`; the ticket ends it.
    pub fn open_chunk(self: &Arc<Self>, before: Point) -> Arc<Ticket> {
        let mut state = self.lock();
        let chunk = state.next_chunk;
        state.next_chunk += 1;
        let span = state.retired + (state.spans.len() as u64).saturating_sub(1);
        state
            .outstanding
            .insert(chunk, Outstanding { span, before });
        Arc::new(Ticket {
            progress: self.clone(),
            chunk,
            parts: AtomicU32::new(1),
        })
    }

    /// The highest point at or below which everything is durable, in the current span or an earlier one that is not yet.
    pub fn watermark(&self) -> Option<Point> {
        self.tail().map(|(_, at)| at)
    }

    /// The watermark and the span that it lies in.
    pub fn tail(&self) -> Option<(Arc<Origin>, Point)> {
        let state = self.lock();
        let last = state.retired + (state.spans.len() as u64).checked_sub(1)?;
        (state.retired..)
            .zip(&state.spans)
            .find(|(number, _)| *number == last || state.pending(*number))
            .map(|(number, span)| (span.origin.clone(), state.durable(number, span)))
    }

    /// How far the current span was routed.
    pub fn head(&self) -> Option<Point> {
        self.lock().spans.back().map(|span| span.routed)
    }

    /// Whether everything that was routed is durable.
    pub fn settled(&self) -> bool {
        self.lock().outstanding.is_empty()
    }

    /// The number of the oldest chunk that is not durable; each new chunk has a higher one.
    pub fn oldest(&self) -> Option<u64> {
        self.lock().outstanding.keys().next().copied()
    }

    /// The facts that grew since they were last [saved](Progress::saved). A span has none before all of the spans before it
    /// is durable: a restart resumes at the newest fact, and would not come back for what an earlier span lacks.
    pub fn facts(&self) -> Vec<Fact> {
        let state = self.lock();
        let mut facts = Vec::new();
        for (number, span) in (state.retired..).zip(&state.spans) {
            let durable = state.durable(number, span);
            let news = span.saved.is_none_or(|saved| saved < durable.seq);
            if news && durable.seq > span.from.seq {
                facts.push(span.fact(durable));
            }
            // Also a chunk that claims nothing here can hold what the next span claims: the frame that proved a jump.
            if state.pending(number) {
                break;
            }
        }
        facts
    }

    /// Notes that these facts are durable; spans that are wholly saved and closed are forgotten.
    pub fn saved(&self, facts: &[Fact]) {
        let mut state = self.lock();
        for span in &mut state.spans {
            let fact = facts.iter().find(|fact| {
                fact.from_seq == span.from.seq
                    && fact.run == span.origin.run
                    && fact.kind == span.kind
                    && fact.generation == span.origin.generation
                    && fact.relay == span.origin.relay
            });
            if let Some(fact) = fact {
                span.saved = span.saved.max(Some(fact.to_seq));
            }
        }
        while state.spans.len() > 1 && state.front_is_done() {
            state.spans.pop_front();
            state.retired += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn durable(&self, number: u64, span: &Span) -> Point {
        let oldest = self.outstanding.values().find(|chunk| chunk.span == number);
        match oldest {
            Some(chunk) if chunk.before.seq < span.from.seq => span.from,
            Some(chunk) => chunk.before,
            None => span.routed,
        }
    }

    /// Whether a chunk of this span is outstanding.
    fn pending(&self, number: u64) -> bool {
        self.outstanding.values().any(|chunk| chunk.span == number)
    }

    fn front_is_done(&self) -> bool {
        self.spans.front().is_some_and(|span| {
            let pending = self.pending(self.retired);
            let empty = span.routed.seq == span.from.seq;
            !pending && (empty || span.saved >= Some(span.routed.seq))
        })
    }
}

impl Span {
    fn fact(&self, to: Point) -> Fact {
        Fact {
            relay: self.origin.relay.clone(),
            generation: self.origin.generation,
            run: self.origin.run,
            from_seq: self.from.seq,
            to_seq: to.seq,
            from_time: self.from.time,
            to_time: to.time,
            slots: self.origin.slots,
            filter: self.origin.filter.clone(),
            kind: self.kind,
        }
    }
}

/// Keeps a chunk outstanding until all its parts are durable. Dropping it does not end the chunk: what is not known to be
/// durable holds the watermark back.
#[derive(Debug)]
pub struct Ticket {
    progress: Arc<Progress>,
    chunk: u64,
    parts: AtomicU32,
}

impl Ticket {
    /// One more part must become durable before the chunk ends.
    pub fn split(&self) {
        self.parts.fetch_add(1, Ordering::Relaxed);
    }

    /// One part is durable.
    pub fn done(&self) {
        if self.parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.progress.lock().outstanding.remove(&self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(kind: FactKind) -> Arc<Origin> {
        Arc::new(Origin {
            relay: "relay.test".into(),
            generation: 0,
            run: 7,
            slots: SlotSet::ALL,
            filter: String::new(),
            kind,
        })
    }

    fn at(seq: u64) -> Point {
        Point {
            seq,
            time: seq * 1000,
        }
    }

    #[test]
    fn the_watermark_waits_for_the_oldest_chunk() {
        let progress = Arc::new(Progress::default());
        progress.begin(origin(FactKind::Live), at(10));
        let first = progress.open_chunk(at(10));
        let second = progress.open_chunk(at(12));
        progress.routed(at(20));
        assert_eq!(progress.watermark(), Some(at(10)));
        assert_eq!(progress.oldest(), Some(0));
        second.done();
        assert_eq!(progress.watermark(), Some(at(10)));
        assert_eq!(progress.oldest(), Some(0));
        assert!(progress.facts().is_empty());
        first.done();
        assert_eq!(progress.watermark(), Some(at(20)));
        assert_eq!(progress.oldest(), None);
        let facts = progress.facts();
        assert_eq!((facts[0].from_seq, facts[0].to_seq), (10, 20));
        assert_eq!((facts[0].from_time, facts[0].to_time), (10_000, 20_000));
    }

    #[test]
    fn a_split_chunk_ends_with_its_last_part() {
        let progress = Arc::new(Progress::default());
        progress.begin(origin(FactKind::Live), at(0));
        let ticket = progress.open_chunk(at(0));
        ticket.split();
        progress.routed(at(3));
        ticket.done();
        assert_eq!(progress.watermark(), Some(at(0)));
        drop(ticket.clone());
        ticket.done();
        assert_eq!(progress.watermark(), Some(at(3)));
        assert!(progress.settled());
    }

    #[test]
    fn a_jump_leaves_a_gap_between_two_facts() {
        let progress = Arc::new(Progress::default());
        progress.begin(origin(FactKind::Live), at(0));
        let before = progress.open_chunk(at(0));
        progress.routed(at(5));
        progress.begin(origin(FactKind::Live), at(100));
        let after = progress.open_chunk(at(100));
        progress.routed(at(110));
        after.done();
        assert_eq!(progress.facts(), [], "the first span is not durable yet");
        before.done();
        let facts = progress.facts();
        assert_eq!(facts.len(), 2);
        assert_eq!((facts[0].from_seq, facts[0].to_seq), (0, 5));
        assert_eq!((facts[1].from_seq, facts[1].to_seq), (100, 110));
        progress.saved(&facts);
        assert!(progress.facts().is_empty());
        assert_eq!(progress.lock().spans.len(), 1);
        progress.routed(at(111));
        assert_eq!(progress.facts()[0].to_seq, 111);
    }

    #[test]
    fn a_passed_frame_is_a_fact_of_its_own() {
        let progress = Arc::new(Progress::default());
        progress.begin(origin(FactKind::Live), at(0));
        progress.routed(at(4));
        progress.pass(at(5));
        progress.routed(at(9));
        let kinds: Vec<_> = progress
            .facts()
            .iter()
            .map(|fact| (fact.kind, fact.from_seq, fact.to_seq))
            .collect();
        assert_eq!(
            kinds,
            [
                (FactKind::Live, 0, 4),
                (FactKind::Passed, 4, 5),
                (FactKind::Live, 5, 9)
            ]
        );
    }

    #[test]
    fn a_jump_is_not_claimed_before_the_frame_that_showed_it() {
        let progress = Arc::new(Progress::default());
        progress.begin(origin(FactKind::Live), at(0));
        progress.routed(at(100));
        let doubted = progress.open_chunk(at(100));
        progress.begin(origin(FactKind::Live), at(199));
        progress.routed(at(201));
        let facts = progress.facts();
        assert_eq!(facts.len(), 1, "{facts:?}");
        assert_eq!(progress.watermark(), Some(at(100)));
        doubted.done();
        assert_eq!(progress.facts().len(), 2);
        assert_eq!(progress.watermark(), Some(at(201)));
    }

    #[derive(Debug, Clone, Copy)]
    enum Do {
        /// The next frame comes, for this lane.
        Route(usize),
        /// A frame comes that does not move the stream: its number is not believed yet.
        Doubt(usize),
        /// A lane's open chunk is handed over.
        HandOver(usize),
        /// A part of a chunk is durable.
        Done(usize),
        /// A chunk gets one more part.
        Split(usize),
        /// Numbers are skipped: a new span begins behind them.
        Jump(u64),
        /// A frame is passed unread.
        Pass,
        /// The ledger is told.
        Save,
    }

    fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Do>> {
        use proptest::prelude::*;
        let step = prop_oneof![
            12 => (0..3_usize).prop_map(Do::Route),
            1 => (0..3_usize).prop_map(Do::Doubt),
            3 => (0..3_usize).prop_map(Do::HandOver),
            6 => (0..64_usize).prop_map(Do::Done),
            1 => (0..64_usize).prop_map(Do::Split),
            1 => (1..50_u64).prop_map(Do::Jump),
            1 => Just(Do::Pass),
            3 => Just(Do::Save),
        ];
        proptest::collection::vec(step, 1..300)
    }

    /// A router and a store, as far as the progress sees them, that know what is durable.
    struct Model {
        progress: Arc<Progress>,
        /// The last number that was sent.
        sent: u64,
        routed: u64,
        open: [Option<(Arc<Ticket>, Vec<u64>)>; 3],
        handed: Vec<(Arc<Ticket>, Vec<u64>, u32)>,
        /// Frames that are not durable.
        volatile: std::collections::BTreeSet<u64>,
        passed: std::collections::BTreeSet<u64>,
        skipped: std::collections::BTreeSet<u64>,
        claimed: std::collections::BTreeMap<u64, u64>,
    }

    impl Model {
        fn frame(&mut self, lane: usize, seq: u64) {
            let (progress, routed) = (&self.progress, at(self.routed));
            let open = self.open[lane].get_or_insert_with(|| {
                progress.routed(routed);
                (progress.open_chunk(routed), Vec::new())
            });
            open.1.push(seq);
            self.volatile.insert(seq);
        }

        fn hand_over(&mut self, lane: usize) {
            if let Some((ticket, frames)) = self.open[lane].take() {
                self.handed.push((ticket, frames, 1));
            }
        }

        fn flush(&mut self) {
            (0..3).for_each(|lane| self.hand_over(lane));
            self.progress.routed(at(self.routed));
        }

        fn step(&mut self, step: Do) {
            match step {
                Do::Route(lane) => {
                    self.sent += 1;
                    self.frame(lane, self.sent);
                    self.routed = self.sent;
                }
                Do::Doubt(lane) => {
                    self.sent += 1;
                    self.frame(lane, self.sent);
                }
                Do::HandOver(lane) => self.hand_over(lane),
                Do::Done(chunk) if !self.handed.is_empty() => {
                    let chunk = chunk % self.handed.len();
                    let (ticket, frames, parts) = &mut self.handed[chunk];
                    ticket.done();
                    *parts -= 1;
                    if *parts == 0 {
                        frames.iter().for_each(|seq| {
                            self.volatile.remove(seq);
                        });
                        self.handed.swap_remove(chunk);
                    }
                }
                Do::Split(chunk) if !self.handed.is_empty() => {
                    let chunk = chunk % self.handed.len();
                    self.handed[chunk].0.split();
                    self.handed[chunk].2 += 1;
                }
                Do::Jump(by) => {
                    // The frame that shows it comes before it is believed.
                    self.frame(0, self.sent + by + 1);
                    self.flush();
                    self.skipped.extend(self.sent + 1..=self.sent + by);
                    self.progress
                        .begin(origin(FactKind::Live), at(self.sent + by));
                    self.sent += by + 1;
                    self.routed = self.sent;
                }
                Do::Pass if self.sent == self.routed => {
                    self.flush();
                    self.sent += 1;
                    self.routed = self.sent;
                    self.passed.insert(self.routed);
                    self.progress.pass(at(self.routed));
                }
                Do::Save => {
                    let facts = self.progress.facts();
                    self.check(&facts);
                    self.progress.saved(&facts);
                }
                Do::Done(_) | Do::Split(_) | Do::Pass => {}
            }
        }

        fn check(&mut self, facts: &[Fact]) {
            for fact in facts {
                let before = self.claimed.insert(fact.from_seq, fact.to_seq);
                assert!(
                    before.is_none_or(|before| before <= fact.to_seq),
                    "facts only grow"
                );
                for seq in fact.from_seq + 1..=fact.to_seq {
                    assert!(!self.volatile.contains(&seq), "{seq} is not durable");
                    assert!(!self.skipped.contains(&seq), "{seq} never came");
                    let passed = fact.kind == FactKind::Passed;
                    assert_eq!(passed, self.passed.contains(&seq), "{seq}");
                }
            }
        }

        /// Where a restart goes on: nothing at or below it may be lost.
        fn resumes_at(&self) -> u64 {
            self.claimed.values().copied().max().unwrap_or(0)
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1_000))]

        #[test]
        fn no_fact_runs_ahead_of_what_is_durable(steps in steps()) {
            let mut model = Model {
                progress: Arc::new(Progress::default()),
                sent: 0,
                routed: 0,
                open: Default::default(),
                handed: Vec::new(),
                volatile: Default::default(),
                passed: Default::default(),
                skipped: Default::default(),
                claimed: Default::default(),
            };
            model.progress.begin(origin(FactKind::Live), at(0));
            for step in steps {
                model.step(step);
                let resume = model.resumes_at();
                proptest::prop_assert!(
                    model.volatile.first().is_none_or(|oldest| *oldest > resume)
                );
            }
            model.flush();
            while !model.handed.is_empty() {
                model.step(Do::Done(0));
            }
            model.step(Do::Save);
            proptest::prop_assert_eq!(model.resumes_at(), model.routed, "all is claimed in the end");
            proptest::prop_assert!(model.progress.settled());
        }
    }
}
