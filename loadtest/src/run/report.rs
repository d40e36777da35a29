//! What came of a run, as it is written in JSON, and whether anything was lost.

use serde::Serialize;

use super::scenario::Limits;
use crate::Diff;

/// Bytes.
pub(super) const MIB: f64 = 1_048_576.0;

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Seconds since the first daemon was started.
    pub at: f64,
    /// Numbers that the relay had published, with its past.
    pub published: u64,
    /// Numbers that were durable.
    pub durable: u64,
    /// Seconds since the first was published that was not durable.
    pub lag: f64,
    /// Resident memory of the largest daemon, in bytes.
    pub memory: u64,
}

/// One sample for each such time: its last, with the highest lag and memory of it.
pub(super) fn thinned(samples: &[Sample], seconds: f64) -> Vec<Sample> {
    let mut thin: Vec<Sample> = Vec::new();
    let place = |sample: &Sample| (sample.at / seconds).floor();
    for sample in samples {
        match thin.last_mut() {
            Some(last) if place(last) == place(sample) => {
                *last = Sample {
                    lag: last.lag.max(sample.lag),
                    memory: last.memory.max(sample.memory),
                    ..*sample
                };
            }
            _ => thin.push(*sample),
        }
    }
    thin
}

/// Something that went wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the first daemon was started.
    pub at: f64,
    /// `kill`: a daemon was killed; `down`: the relay ended all connections.
    pub what: &'static str,
}

impl Moment {
    pub(super) fn kill(at: f64) -> Self {
        Self { at, what: "kill" }
    }

    pub(super) fn down(at: f64) -> Self {
        Self { at, what: "down" }
    }
}

/// How far behind, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lags {
    /// Half of the samples are below,
    pub median: f64,
    /// 90 of 100,
    pub p90: f64,
    /// 99 of 100,
    pub p99: f64,
    /// all.
    pub max: f64,
}

impl Lags {
    /// Of these samples.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let mut lags: Vec<f64> = samples.iter().map(|sample| sample.lag).collect();
        lags.sort_unstable_by(f64::total_cmp);
        let at = |share: usize| {
            let place = (lags.len() * share / 100).min(lags.len().saturating_sub(1));
            lags.get(place).copied().unwrap_or_default()
        };
        Self {
            median: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

/// A phase, or a step of a ramp, as it went.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Numbers that were to be published a second; none: all that was left, at once.
    pub rate: Option<f64>,
    /// How long it took.
    pub seconds: f64,
    /// Numbers that were published a second,
    pub published_per_second: f64,
    /// and that became durable a second.
    pub durable_per_second: f64,
    /// How far behind.
    pub lag: Lags,
    /// Highest resident memory seen, in bytes.
    pub memory_max: u64,
}

impl Step {
    /// From its samples and the last one before.
    pub(super) fn of(name: &str, rate: Option<f64>, samples: &[Sample]) -> Self {
        let (first, last) = (samples.first(), samples.last());
        let seconds = first
            .zip(last)
            .map_or(0.0, |(first, last)| last.at - first.at);
        let per_second = |count: fn(&Sample) -> u64| {
            let counts = first.zip(last);
            let more = counts.map_or(0, |(first, last)| count(last).saturating_sub(count(first)));
            more as f64 / seconds.max(1e-3)
        };
        Self {
            name: name.to_owned(),
            rate,
            seconds,
            published_per_second: per_second(|sample| sample.published),
            durable_per_second: per_second(|sample| sample.durable),
            lag: Lags::of(samples),
            memory_max: samples
                .iter()
                .map(|sample| sample.memory)
                .max()
                .unwrap_or(0),
        }
    }
}

/// What was simulated, and what went wrong on purpose.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Injected {
    /// Events of the stream.
    pub events: u64,
    /// Numbers that have a frame: the events, and what faults put among them.
    pub frames: u64,
    /// Bytes of the frames.
    pub bytes: u64,
    /// Times that a daemon was killed by SIGKILL.
    pub kills: u64,
    /// Times that the relay ended all connections at once.
    pub downs: u64,
    /// Connects that were refused.
    pub refused: u64,
    /// Times that a connection ended or could not be made, as far as daemons lived to tell.
    pub reconnects: u64,
    /// Corrupt frames.
    pub corrupt: u64,
    /// Frames that are larger than allowed, or that no reader gets past.
    pub unreadable: u64,
    /// Frames that were sent twice under one number.
    pub duplicates: u64,
    /// Events that came again under another number.
    pub renumbered: u64,
    /// Neighbours that swapped.
    pub reordered: u64,
}

impl Injected {
    /// All faults together.
    pub fn faults(&self) -> u64 {
        self.kills
            + self.downs
            + self.refused
            + self.reconnects
            + self.corrupt
            + self.unreadable
            + self.duplicates
            + self.renumbered
            + self.reordered
    }
}

/// What is held in the end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Records that must be held.
    pub records: u64,
    /// Repositories of which something must be held.
    pub repos: u64,
    /// Of both, those that are not held,
    pub lost: u64,
    /// that are held and must not be,
    pub extra: u64,
    /// and parts that are not as they must be.
    pub different: u64,
    /// What is held more than once.
    pub duplicates_visible: u64,
    /// Events that were taken in more than once, at least: what a daemon did just before it was killed nobody counted.
    pub duplicates_applied: u64,
    /// Different frames that must be in the quarantine,
    pub to_quarantine: u64,
    /// and rows of it.
    pub quarantined: u64,
    /// Why not all became durable.
    pub unfinished: Option<String>,
    /// The first of what is wrong.
    pub first: Vec<String>,
}

impl Outcome {
    pub(super) fn of(diff: &Diff) -> Self {
        Self {
            records: diff.records,
            repos: diff.repos,
            lost: diff.missing,
            extra: diff.extra,
            different: diff.different,
            duplicates_visible: diff.twice,
            first: diff.first.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// Whether all is as it must be.
    pub fn is_right(&self) -> bool {
        self.lost + self.extra + self.different + self.duplicates_visible == 0
            && self.quarantined >= self.to_quarantine
            && self.unfinished.is_none()
    }
}

/// A limit of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limit {
    /// Its key.
    pub name: &'static str,
    /// Its value,
    pub limit: f64,
    /// and what was measured.
    pub measured: f64,
    /// Whether it was kept.
    pub kept: bool,
}

/// On what it was run.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// What `penstock --version` says.
    pub version: String,
    /// `embedded` or `CQL`.
    pub store: &'static str,
    /// How many cores.
    pub cores: usize,
    /// CPU seconds of all daemons,
    pub daemon_cpu_seconds: f64,
    /// of this process,
    pub simulator_cpu_seconds: f64,
    /// and how many cores all others kept busy on average.
    pub others_cores: f64,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario,
    pub scenario: String,
    /// what it is about,
    pub about: String,
    /// its seed.
    pub seed: u64,
    /// When it began.
    pub began: String,
    /// How long it took until all was durable.
    pub seconds: f64,
    /// On what.
    pub machine: Machine,
    /// What was simulated.
    pub injected: Injected,
    /// What is held in the end.
    pub outcome: Outcome,
    /// How far behind, over all phases.
    pub lag: Lags,
    /// Highest resident memory of a daemon, in bytes.
    pub memory_max: u64,
    /// The highest rate of a ramp that was sustained.
    pub sustained: Option<f64>,
    /// Whether the scenario's limits were kept.
    pub limits: Vec<Limit>,
    /// One phase after the other.
    pub steps: Vec<Step>,
    /// Kills, and times at which the relay was down.
    pub moments: Vec<Moment>,
    /// What was seen, one a second.
    pub samples: Vec<Sample>,
}

impl Report {
    pub(super) fn judge(&mut self, limits: &Limits) {
        let memory = self.memory_max as f64 / MIB;
        let most = |name, limit: Option<f64>, measured: f64| {
            limit.map(|limit| Limit {
                name,
                limit,
                measured,
                kept: measured <= limit,
            })
        };
        let sustained = limits.sustained.map(|limit| Limit {
            name: "sustained",
            limit,
            measured: self.sustained.unwrap_or(0.0),
            kept: self.sustained.is_some_and(|rate| rate >= limit),
        });
        let all = [
            most("memory_mib", limits.memory_mib, memory),
            most("lag_p99_seconds", limits.lag_p99_seconds, self.lag.p99),
            sustained,
        ];
        self.limits = all.into_iter().flatten().collect();
    }

    /// 0: all is as it must be; 1: something is lost, wrong or there twice, or not all became durable; 3: only a limit was not kept.
    pub fn exit_code(&self) -> u8 {
        match self.outcome.is_right() {
            false => 1,
            true if self.limits.iter().any(|limit| !limit.kept) => 3,
            true => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, lag: f64, memory: u64) -> Sample {
        Sample {
            at,
            published: at as u64 * 10,
            durable: at as u64 * 5,
            lag,
            memory,
        }
    }

    #[test]
    fn seconds_keep_what_is_highest() {
        let samples = [
            sample(0.1, 3.0, 1),
            sample(0.9, 1.0, 5),
            sample(1.2, 2.0, 4),
        ];
        let thin = thinned(&samples, 1.0);
        assert_eq!(thin.len(), 2);
        assert_eq!((thin[0].at, thin[0].lag, thin[0].memory), (0.9, 3.0, 5));
    }

    #[test]
    fn a_step_tells_its_speed_and_lags() {
        let samples: Vec<Sample> = (0..=100)
            .map(|at| sample(f64::from(at), f64::from(at), 7))
            .collect();
        let step = Step::of("s", Some(10.0), &samples);
        assert_eq!(
            (step.published_per_second, step.durable_per_second),
            (10.0, 5.0)
        );
        assert_eq!(
            (step.lag.median, step.lag.p99, step.lag.max),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(Step::of("none", None, &[]).lag, Lags::default());
    }

    #[test]
    fn what_is_wrong_decides() {
        let right = Outcome {
            to_quarantine: 2,
            quarantined: 2,
            duplicates_applied: 9,
            ..Outcome::default()
        };
        assert!(right.is_right());
        for wrong in [
            Outcome {
                lost: 1,
                ..right.clone()
            },
            Outcome {
                extra: 1,
                ..right.clone()
            },
            Outcome {
                different: 1,
                ..right.clone()
            },
            Outcome {
                duplicates_visible: 1,
                ..right.clone()
            },
            Outcome {
                quarantined: 1,
                ..right.clone()
            },
            Outcome {
                unfinished: Some("it stands".to_owned()),
                ..right.clone()
            },
        ] {
            assert!(!wrong.is_right(), "{wrong:?}");
        }
    }
}
