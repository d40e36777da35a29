//! A scenario as it happens: what the relay publishes, what goes wrong, what is seen of the daemons each moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::publications::Publications;
use super::report::{Moment, Sample, Step};
use super::scenario::{Phase, Scenario};
use super::stop::{Stop, Stopped};
use super::workers::Workers;
use crate::daemon::STANDSTILL;
use crate::{FrameLog, Pace, Prepared, RelayServer};

/// How often daemons are looked at; they measure themselves as often.
const TICK: Duration = Duration::from_millis(200);
/// How often it is said how it goes.
const SAY: Duration = Duration::from_secs(1);

/// Hears now and then how it goes: the phase, and what was seen last.
type Say<'a> = Box<dyn FnMut(&str, &Sample) + 'a>;

/// Something that happens over and over.
struct Misfortune {
    every: Option<f64>,
    next: f64,
}

impl Misfortune {
    fn new(every: Option<f64>) -> Self {
        Self { every, next: 0.0 }
    }

    /// Chooses the next time: half to one and a half times as far away as it says.
    fn choose(&mut self, now: f64, chance: &mut ChaCha8Rng) {
        let every = self.every.unwrap_or(f64::INFINITY);
        self.next = now + every * chance.random_range(0.5..1.5);
    }

    /// Whether it happens now.
    fn is_due(&mut self, now: f64, chance: &mut ChaCha8Rng) -> bool {
        let due = now >= self.next;
        if due {
            self.choose(now, chance);
        }
        due
    }
}

/// What happened.
#[derive(Default)]
pub(super) struct Happened {
    /// What was seen each [`TICK`].
    pub samples: Vec<Sample>,
    /// What was published, one after the other.
    pub steps: Vec<Step>,
    /// Kills, and times at which the relay was down.
    pub moments: Vec<Moment>,
    /// The highest rate of a ramp at which no daemon fell behind.
    pub sustained: Option<f64>,
    /// Why not all became durable.
    pub unfinished: Option<String>,
}

/// A running scenario.
pub(super) struct Story<'a> {
    scenario: &'a Scenario,
    relay: &'a RelayServer,
    publications: &'a Publications,
    workers: &'a mut Workers,
    stop: &'a Stop,
    log: Arc<FrameLog>,
    /// Numbers that were there before a daemon started.
    past: usize,
    /// The last number that a watermark gets to.
    last_good: u64,
    chance: ChaCha8Rng,
    kill: Misfortune,
    down: Misfortune,
    /// Numbers of the live stream, and of the past, that were durable at the last look.
    live: usize,
    replayed: usize,
    tick: Instant,
    say: Say<'a>,
    said: Instant,
    happened: Happened,
}

impl<'a> Story<'a> {
    pub fn new(
        scenario: &'a Scenario,
        (prepared, relay): (&Prepared, &'a RelayServer),
        publications: &'a Publications,
        workers: &'a mut Workers,
        stop: &'a Stop,
        seed: u64,
        say: impl FnMut(&str, &Sample) + 'a,
    ) -> Self {
        let past = relay.published();
        Self {
            scenario,
            relay,
            publications,
            workers,
            stop,
            log: prepared.log.clone(),
            past,
            last_good: last_good(prepared),
            chance: ChaCha8Rng::seed_from_u64(seed ^ 0x0072_756e_6e69_6e67),
            kill: Misfortune::new(scenario.daemon.kill_every_seconds),
            down: Misfortune::new(scenario.relay.down_every_seconds),
            live: past,
            replayed: 0,
            tick: Instant::now(),
            say: Box::new(say),
            said: Instant::now(),
            happened: Happened::default(),
        }
    }

    /// From the first daemon's start until all is durable, and all daemons have ended; if it fails, some may still run.
    pub fn play(mut self) -> anyhow::Result<Happened> {
        self.workers.become_so_many(self.scenario.daemon.workers)?;
        self.until_connected()?;
        let now = self.publications.now();
        self.kill.choose(now, &mut self.chance);
        self.down.choose(now, &mut self.chance);
        for phase in self.scenario.steps() {
            let sustained = self.phase(&phase)?;
            let Some(ramp) = &self.scenario.ramp else {
                continue;
            };
            if sustained > ramp.max_lag_seconds {
                break;
            }
            self.happened.sustained = Some(phase.rate);
        }
        self.rest()?;
        self.workers.stop()?;
        Ok(self.happened)
    }

    fn until_connected(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.workers.look().connected {
            self.wait(f64::INFINITY)?;
            self.workers.tend()?;
            if began.elapsed() > STANDSTILL {
                bail!(
                    "no daemon follows the relay after {STANDSTILL:?}; see {}",
                    self.workers.installation.log.display()
                );
            }
        }
        Ok(())
    }

    /// Gives the highest lag of the second half.
    fn phase(&mut self, phase: &Phase) -> anyhow::Result<f64> {
        if let Some(count) = phase.workers {
            self.workers.become_so_many(count)?;
        }
        let (from, began) = (self.happened.samples.len(), self.publications.now());
        self.relay
            .change(|options| options.pace = Pace::Rate(phase.rate));
        let end = began + phase.seconds;
        while self.publications.now() < end {
            self.look(&phase.name, end)?;
            self.misfortunes()?;
        }
        self.relay.change(|options| options.pace = Pace::Manual);
        let seen = &self.happened.samples[from..];
        let half = began + phase.seconds / 2.0;
        let late = seen.iter().filter(|sample| sample.at >= half);
        let lag = late.map(|sample| sample.lag).fold(0.0, f64::max);
        self.end_of(&phase.name, Some(phase.rate), from);
        Ok(lag)
    }

    /// Publishes what is left, and waits until all is durable.
    fn rest(&mut self) -> anyhow::Result<()> {
        let from = self.happened.samples.len();
        self.relay.publish_all();
        let mut moved = (0, Instant::now());
        while !self.is_all_durable()? {
            self.look("rest", f64::INFINITY)?;
            let durable = self.live + self.replayed;
            if durable > moved.0 {
                moved = (durable, Instant::now());
            }
            if moved.1.elapsed() > STANDSTILL {
                let held = format!("{durable} of {} numbers are durable", self.log.len());
                self.happened.unfinished = Some(format!("{held}, no more since {STANDSTILL:?}"));
                break;
            }
        }
        self.look("rest", f64::INFINITY)?;
        self.end_of("rest", None, from);
        Ok(())
    }

    fn is_all_durable(&self) -> anyhow::Result<bool> {
        let last = self
            .log
            .entries()
            .partition_point(|entry| entry.seq <= self.last_good);
        if self.live < last {
            return Ok(false);
        }
        if self.past == 0 {
            return Ok(true);
        }
        // What live began too late for is replayed too; the ledger knows.
        Ok(self
            .workers
            .installation
            .command(&["gaps"])?
            .status()?
            .success())
    }

    /// Until the next tick, or until this, if that is sooner. Fails if the run is to stop.
    fn wait(&mut self, end: f64) -> Result<(), Stopped> {
        self.stop.check()?;
        self.tick += TICK;
        let left = self.tick.saturating_duration_since(Instant::now());
        let end = (end - self.publications.now()).clamp(0.0, TICK.as_secs_f64());
        let left = left.min(Duration::from_secs_f64(end));
        match left.is_zero() {
            true => self.tick = Instant::now(),
            false => std::thread::park_timeout(left),
        }
        Ok(())
    }

    fn look(&mut self, phase: &str, end: f64) -> anyhow::Result<()> {
        self.wait(end)?;
        self.workers.tend()?;
        let look = self.workers.look();
        let upto = |seq: Option<u64>| {
            let entries = self.log.entries();
            entries.partition_point(|entry| Some(entry.seq) <= seq)
        };
        // What was durable stays so, whatever a new process says at first.
        let (live, replayed) = (upto(look.live), upto(look.replay).min(self.past));
        self.live = self.live.max(live);
        self.replayed = self.replayed.max(replayed);
        let at = self.publications.now();
        let sample = Sample {
            at,
            published: self.relay.published() as u64,
            durable: match self.past {
                0 => self.live,
                past => self.live - past + self.replayed,
            } as u64,
            lag: self.publications.lag(at, self.live),
            memory: look.memory,
        };
        if self.said.elapsed() >= SAY {
            self.said = Instant::now();
            (self.say)(phase, &sample);
        }
        self.happened.samples.push(sample);
        Ok(())
    }

    fn misfortunes(&mut self) -> anyhow::Result<()> {
        let now = self.publications.now();
        if self.kill.is_due(now, &mut self.chance) {
            let which = self.chance.random_range(0..self.workers.count().max(1));
            self.workers.kill(which)?;
            self.happened.moments.push(Moment::kill(now));
        }
        if self.down.is_due(now, &mut self.chance) {
            self.relay.change(|options| {
                options.faults.refusals.extend(self.scenario.refusals());
            });
            self.relay.disconnect_all();
            self.happened.moments.push(Moment::down(now));
        }
        Ok(())
    }

    fn end_of(&mut self, name: &str, rate: Option<f64>, from: usize) {
        let samples = &self.happened.samples;
        // Beginning with the last one before, for differences.
        let seen = &samples[from.saturating_sub(1)..];
        self.happened.steps.push(Step::of(name, rate, seen));
    }
}

/// The last number whose frame can be read: what ends with a broken frame is proven by the next.
fn last_good(prepared: &Prepared) -> u64 {
    let summary = &prepared.manifest.summary;
    let broken = [
        &summary.corrupt_seqs,
        &summary.oversized_seqs,
        &summary.too_large_seqs,
        &summary.poison_seqs,
    ];
    let is_good = |seq: &u64| broken.iter().all(|seqs| !seqs.contains(seq));
    let seqs = prepared.log.entries().iter().map(|entry| entry.seq);
    seqs.rev().find(is_good).unwrap_or(0)
}
