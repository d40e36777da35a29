//! Gives messages their order and numbers, and puts the faults of a stream's content among them: frames swapped across
//! DIDs, holes in the numbering, events sent twice, corrupt, oversized and poison frames. None of it changes what a
//! consumer must hold in the end.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::corrupt::{self, Corruption};
use crate::log::{self, LogWriter};
use crate::message::{self, Message};
use crate::world::{Restart, StreamFaults, Summary, WorldSpec};

/// Messages that may be sent again under a new number.
const RECENT: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    Oversized,
    TooLarge,
    Poison,
}

pub(crate) struct Numbering<'a> {
    faults: &'a StreamFaults,
    restart: Option<Restart>,
    classes: Vec<Corruption>,
    rng: ChaCha8Rng,
    log: LogWriter,
    seq: u64,
    held: Option<Message>,
    recent: VecDeque<Message>,
    /// What comes after which number of messages.
    specials: BTreeMap<u64, Vec<Special>>,
    passed: u64,
    now: u64,
}

impl<'a> Numbering<'a> {
    pub(crate) fn new(spec: &'a WorldSpec, log: LogWriter) -> Self {
        let faults = &spec.faults;
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed ^ 0x6e75_6d62_6572);
        let mut specials: BTreeMap<u64, Vec<Special>> = BTreeMap::new();
        let wanted = [
            (Special::Oversized, faults.oversized),
            (Special::TooLarge, faults.too_large),
            (Special::Poison, faults.poison),
        ];
        for (special, count) in wanted {
            for _ in 0..count {
                let after = rng.random_range(1..=spec.events.max(1));
                specials.entry(after).or_default().push(special);
            }
        }
        let classes = match faults.corrupt_classes.is_empty() {
            true => Corruption::ALL.to_vec(),
            false => faults.corrupt_classes.clone(),
        };
        Self {
            faults,
            restart: spec.restart,
            classes,
            rng,
            log,
            seq: spec.first_seq.max(1) - 1,
            held: None,
            recent: VecDeque::new(),
            specials,
            passed: 0,
            now: spec.span().1.max(crate::datetime::now_micros()),
        }
    }

    /// Takes the next message.
    pub(crate) fn push(&mut self, message: Message, summary: &mut Summary) -> io::Result<()> {
        if let Some(held) = self.held.take() {
            if held.repo != message.repo && self.rng.random_bool(self.faults.reordered) {
                summary.reordered += 1;
                self.held = Some(held);
                return self.emit(message, summary);
            }
            self.emit(held, summary)?;
        }
        self.held = Some(message);
        Ok(())
    }

    /// Sends what is held back and ends the log.
    pub(crate) fn finish(mut self, summary: &mut Summary) -> io::Result<LogWriter> {
        if let Some(held) = self.held.take() {
            self.emit(held, summary)?;
        }
        summary.last_seq = self.seq;
        summary.bytes = self.log.bytes();
        Ok(self.log)
    }

    fn next_seq(&mut self, summary: &mut Summary) -> u64 {
        if self.seq > 0 && self.rng.random_bool(self.faults.gaps) {
            let hole = self.rng.random_range(1..5);
            self.seq += hole;
            summary.gaps += 1;
            summary.missing_seqs += hole;
        }
        self.seq += 1;
        if summary.first_seq == 0 {
            summary.first_seq = self.seq;
        }
        summary.frames += 1;
        self.seq
    }

    fn emit(&mut self, message: Message, summary: &mut Summary) -> io::Result<()> {
        if let Some(restart) = self.restart.filter(|restart| restart.after == self.passed) {
            self.seq = restart.first_seq.max(1) - 1;
        }
        self.good(&message, summary)?;
        if message.commit && self.rng.random_bool(self.faults.corrupt) {
            self.corrupt(&message, summary)?;
        }
        if self.faults.renumbered > 0.0 {
            if !self.recent.is_empty() && self.rng.random_bool(self.faults.renumbered) {
                let again = self.recent[self.rng.random_range(0..self.recent.len())].clone();
                self.good(&again, summary)?;
                summary.renumbered += 1;
            }
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(message.clone());
        }
        self.passed += 1;
        for special in self.specials.remove(&self.passed).unwrap_or_default() {
            self.special(special, &message, summary)?;
        }
        Ok(())
    }

    fn good(&mut self, message: &Message, summary: &mut Summary) -> io::Result<()> {
        let seq = self.next_seq(summary);
        let payload = message.numbered(seq);
        let mut wire = Vec::with_capacity(payload.len() + 10);
        let mut messages = 1;
        log::frame(&mut wire, &payload);
        if self.rng.random_bool(self.faults.duplicates) {
            log::frame(&mut wire, &payload);
            messages += 1;
            summary.duplicates += 1;
        }
        if self.rng.random_bool(self.faults.infos) {
            log::frame(
                &mut wire,
                &message::info("Greetings", "nothing to see here"),
            );
            messages += 1;
            summary.infos += 1;
        }
        self.log.add(seq, &wire, messages)
    }

    fn corrupt(&mut self, message: &Message, summary: &mut Summary) -> io::Result<()> {
        let class = self.classes[self.rng.random_range(0..self.classes.len())];
        let seq = self.next_seq(summary);
        let good = message.numbered(seq);
        let bad = corrupt::mutate(class, &good, self.now, &mut self.rng);
        *summary.corrupt.entry(class.name().to_owned()).or_default() += 1;
        summary.corrupt_total += 1;
        summary.corrupt_seqs.push(seq);
        let mut wire = Vec::with_capacity(bad.len() + 10);
        log::frame(&mut wire, &bad);
        self.log.add(seq, &wire, 1)
    }

    fn special(
        &mut self,
        special: Special,
        message: &Message,
        summary: &mut Summary,
    ) -> io::Result<()> {
        let seq = self.next_seq(summary);
        let mut wire = Vec::new();
        match special {
            Special::Oversized => {
                log::frame(
                    &mut wire,
                    &padded(&message.numbered(seq), (16 << 20) + 4096),
                );
                summary.oversized_seqs.push(seq);
            }
            Special::TooLarge => {
                log::frame(&mut wire, &padded(&message.numbered(seq), 5_500_000));
                summary.too_large_seqs.push(seq);
            }
            Special::Poison => {
                // A reserved opcode with reserved bits set: no reader gets past it.
                log::frame_with(&mut wire, 0xf3, &self.rng.next_u64().to_be_bytes());
                summary.poison_seqs.push(seq);
            }
        }
        self.log.add(seq, &wire, 1)
    }
}

/// A frame of at least `len` bytes that begins as `good` does; what follows the message is surplus.
fn padded(good: &[u8], len: usize) -> Vec<u8> {
    let mut out = good.to_vec();
    out.resize(len, 0);
    out
}
