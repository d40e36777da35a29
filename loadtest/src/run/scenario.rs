//! The format of scenario files, and those that come with this program.
//!
//! A key that is not known is a mistake, and so is a value that makes no sense; all of it is told before anything starts.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::faults::{ConnectionFaults, DropKind, Refusal};
use crate::repo::Signatures;
use crate::world::{StreamFaults, WorldSpec};

/// The scenarios that come with this program: name, and the text of the file.
pub const SCENARIOS: &[(&str, &str)] = &[
    ("steady", include_str!("../../scenarios/steady.toml")),
    ("ramp", include_str!("../../scenarios/ramp.toml")),
    ("replay", include_str!("../../scenarios/replay.toml")),
    ("burst", include_str!("../../scenarios/burst.toml")),
    (
        "slow-store",
        include_str!("../../scenarios/slow-store.toml"),
    ),
    (
        "relay-flaps",
        include_str!("../../scenarios/relay-flaps.toml"),
    ),
    (
        "corrupt-frames",
        include_str!("../../scenarios/corrupt-frames.toml"),
    ),
    ("kills", include_str!("../../scenarios/kills.toml")),
    ("reshard", include_str!("../../scenarios/reshard.toml")),
    ("soak", include_str!("../../scenarios/soak.toml")),
];

/// Why a scenario can't be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Neither a name nor a file.
    #[error(
        "{0} is neither a scenario of this program ({names}) nor a file that can be read: {1}",
        names = names()
    )]
    Unknown(String, std::io::Error),
    /// The file is not what it should be.
    #[error("{0}: {1}")]
    Malformed(String, toml::de::Error),
    /// A value makes no sense.
    #[error("{0}: {1}")]
    Wrong(String, String),
}

fn names() -> String {
    let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// What happens, in which order, and what must hold then.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A name of [`SCENARIOS`], or that of the file.
    #[serde(skip)]
    pub name: String,
    /// What it is about, in a sentence.
    pub about: String,
    /// The events.
    #[serde(default)]
    pub stream: Stream,
    /// The relay that serves them.
    #[serde(default)]
    pub relay: Relay,
    /// Where Penstock keeps them.
    #[serde(default)]
    pub store: Store,
    /// The daemons that take them in.
    #[serde(default)]
    pub daemon: Daemon,
    /// What the relay publishes, one after the other.
    #[serde(default, rename = "phase")]
    pub phases: Vec<Phase>,
    /// Instead of phases: ever faster, until a daemon can't follow.
    pub ramp: Option<Ramp>,
    /// What must hold besides that nothing is lost.
    #[serde(default)]
    pub limits: Limits,
}

/// `[stream]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Number of accounts.
    pub repos: usize,
    /// Mean number of records that they had before; more make larger frames.
    pub prefill: usize,
    /// So many events were published before a daemon starts; they are replayed.
    pub past: u64,
    /// Over so many days.
    pub past_days: f64,
    /// What is wrong with its content.
    pub faults: StreamFaults,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            repos: 2_000,
            prefill: 1_000,
            past: 0,
            past_days: 1.0,
            faults: StreamFaults::default(),
        }
    }
}

/// `[relay]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// A connection ends after about so many frames.
    pub drop_every: Option<u64>,
    /// How it ends.
    pub drop_kind: DropKind,
    /// Nothing more is sent or answered after about so many frames,
    pub stall_every: Option<u64>,
    /// for so long; without it until the daemon gives up.
    pub stall_seconds: Option<f64>,
    /// A text message comes after about so many frames.
    pub text_every: Option<u64>,
    /// All connections end so often,
    pub down_every_seconds: Option<f64>,
    /// and the next attempts are answered with these HTTP statuses.
    pub refuse: Vec<u16>,
}

/// `[store]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Every `fdatasync`, by which the embedded store makes batches durable, takes so much longer, by strace; of the CQL store every
    /// statement.
    pub sync_delay_ms: Option<u64>,
    /// This needs the CQL store.
    pub cql: bool,
}

/// `[daemon]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    /// How many workers there are at first; more than one need the CQL store.
    pub workers: u16,
    /// One of them is killed by SIGKILL about so often, and started again at once.
    pub kill_every_seconds: Option<f64>,
    /// Settings, as in `penstock run --set key=value`.
    pub set: Vec<String>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            workers: 1,
            kill_every_seconds: None,
            set: Vec::new(),
        }
    }
}

/// `[[phase]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// As the report calls it.
    pub name: String,
    /// How long it is.
    pub seconds: f64,
    /// Numbers that the relay publishes a second.
    pub rate: f64,
    /// From now on there are so many workers: all are stopped, and so many are started.
    pub workers: Option<u16>,
}

/// `[ramp]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The first rate, in numbers a second.
    pub from: f64,
    /// How many times the one before the next rate is.
    pub factor: f64,
    /// How many there are.
    pub steps: u32,
    /// How long each of them is.
    pub seconds: f64,
    /// A rate is sustained if in the second half of its time the lag is never above this.
    pub max_lag_seconds: f64,
}

/// `[limits]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Highest resident memory of a daemon.
    pub memory_mib: Option<f64>,
    /// Lag that 99 of 100 samples are below.
    pub lag_p99_seconds: Option<f64>,
    /// Lowest rate that must be sustained on a ramp.
    pub sustained: Option<f64>,
}

impl Scenario {
    /// Reads one by its name, or from a file.
    pub fn load(name: &str) -> Result<Self, ScenarioError> {
        if let Some((_, text)) = SCENARIOS.iter().find(|(own, _)| *own == name) {
            return Self::parse(name, text);
        }
        let text = std::fs::read_to_string(name)
            .map_err(|error| ScenarioError::Unknown(name.to_owned(), error))?;
        let stem = Path::new(name).file_stem().unwrap_or_default();
        Self::parse(&stem.to_string_lossy(), &text)
    }

    /// Reads the text of one.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let mut scenario: Self = toml::from_str(text)
            .map_err(|error| ScenarioError::Malformed(name.to_owned(), error))?;
        name.clone_into(&mut scenario.name);
        match scenario.mistake() {
            Some(mistake) => Err(ScenarioError::Wrong(name.to_owned(), mistake)),
            None => Ok(scenario),
        }
    }

    /// With every rate times `scale`, and lasting `seconds` in all, if that is given.
    pub fn sized(mut self, scale: f64, seconds: Option<f64>) -> Self {
        let longer = seconds.map_or(1.0, |seconds| seconds / self.seconds());
        for phase in &mut self.phases {
            phase.rate *= scale;
            phase.seconds *= longer;
        }
        if let Some(ramp) = &mut self.ramp {
            ramp.from *= scale;
            ramp.seconds *= longer;
        }
        self.stream.past = (self.stream.past as f64 * scale * longer) as u64;
        self
    }

    /// What the relay publishes, one after the other.
    pub fn steps(&self) -> Vec<Phase> {
        let Some(ramp) = &self.ramp else {
            return self.phases.clone();
        };
        let rate = |step| ramp.from * ramp.factor.powf(f64::from(step));
        let step = |step| Phase {
            name: format!("{:.0}/s", rate(step)),
            seconds: ramp.seconds,
            rate: rate(step),
            workers: None,
        };
        (0..ramp.steps).map(step).collect()
    }

    /// How long it lasts, until all is published.
    pub fn seconds(&self) -> f64 {
        self.steps().iter().map(|step| step.seconds).sum()
    }

    /// Whether it can be run with the CQL store only.
    pub fn needs_cql(&self) -> bool {
        let more = |phase: &Phase| phase.workers.is_some_and(|count| count > 1);
        self.store.cql || self.daemon.workers > 1 || self.phases.iter().any(more)
    }

    /// The stream of it.
    pub fn world(&self, seed: u64) -> WorldSpec {
        let steps = self.steps();
        let live: f64 = steps.iter().map(|step| step.rate * step.seconds).sum();
        let past = match self.stream.past {
            0 => 0,
            _ => (self.stream.past_days * 86_400e6) as u64,
        };
        WorldSpec {
            seed,
            repos: self.stream.repos,
            events: self.stream.past + live.ceil() as u64,
            past_events: self.stream.past,
            past,
            prefill: self.stream.prefill,
            // Nobody looks at them, and they take most of the time.
            signatures: Signatures::Random,
            faults: self.stream.faults.clone(),
            ..WorldSpec::default()
        }
    }

    /// How the relay's connections fail by themselves.
    pub fn connection_faults(&self, seed: u64) -> ConnectionFaults {
        ConnectionFaults {
            seed,
            drop_every: self.relay.drop_every,
            drop_kind: self.relay.drop_kind,
            stall_every: self.relay.stall_every,
            stall_for: self.relay.stall_seconds.map(Duration::from_secs_f64),
            text_every: self.relay.text_every,
            ..ConnectionFaults::default()
        }
    }

    /// The answers while the relay is down.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> {
        self.relay.refuse.iter().map(|status| match status {
            429 => Refusal::too_many_requests(1),
            503 => Refusal::unavailable(),
            status => Refusal::status(*status),
        })
    }

    fn mistake(&self) -> Option<String> {
        if self.ramp.is_some() != self.phases.is_empty() {
            return Some("it has either [[phase]]s or a [ramp]".to_owned());
        }
        let of_steps = self.steps().into_iter().flat_map(|step| {
            let name = step.name;
            [
                (format!("seconds of phase {name:?}"), Some(step.seconds)),
                (format!("rate of phase {name:?}"), Some(step.rate)),
            ]
        });
        let (relay, daemon, stream) = (&self.relay, &self.daemon, &self.stream);
        let times = [
            ("relay.stall_seconds", relay.stall_seconds),
            ("relay.down_every_seconds", relay.down_every_seconds),
            ("daemon.kill_every_seconds", daemon.kill_every_seconds),
            ("stream.past_days", Some(stream.past_days)),
            ("stream.repos", Some(stream.repos as f64)),
        ];
        let times = times.map(|(name, value)| (name.to_owned(), value));
        for (name, value) in of_steps.chain(times) {
            if let Some(value) = value
                && !(value > 0.0 && value < 1e9)
            {
                return Some(format!("{name} is a number above 0, not {value}"));
            }
        }
        let faults = &stream.faults;
        let shares = [
            ("corrupt", faults.corrupt),
            ("duplicates", faults.duplicates),
            ("renumbered", faults.renumbered),
            ("gaps", faults.gaps),
            ("reordered", faults.reordered),
            ("infos", faults.infos),
        ];
        let wrong = |(_, share): &&(&str, f64)| !(0.0..=1.0).contains(share);
        if let Some((name, share)) = shares.iter().find(wrong) {
            return Some(format!(
                "stream.faults.{name} is a share between 0 and 1, not {share}"
            ));
        }
        let counts = self.phases.iter().filter_map(|phase| phase.workers);
        let mut counts = counts.chain([daemon.workers]);
        let wrong = counts.find(|count| !(1..=256).contains(count))?;
        Some(format!("there are 1 to 256 workers, not {wrong}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "about = \"a\"\n[[phase]]\nname = \"p\"\nseconds = 2\nrate = 10\n";

    #[test]
    fn every_scenario_is_known_and_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut known: Vec<String> = SCENARIOS
            .iter()
            .map(|(name, _)| format!("{name}.toml"))
            .collect();
        known.sort();
        assert_eq!(files, known);
        for (name, text) in SCENARIOS {
            let scenario = Scenario::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert!(scenario.seconds() >= 30.0, "{name}");
            assert!(text.starts_with("# "), "{name} begins with a comment");
        }
        assert!(Scenario::load("soak").unwrap().seconds() >= 20.0 * 60.0);
    }

    #[test]
    fn mistakes_are_told() {
        assert!(Scenario::parse("a", SMALL).is_ok());
        for (text, said) in [
            ("[stream]\nreops = 1", "reops"),
            ("[stream.faults]\ncorrrupt = 0.1", "corrrupt"),
            ("[stream.faults]\ncorrupt = 2", "between 0 and 1, not 2"),
            ("[relay]\ndrop_kind = \"soft\"", "soft"),
            ("[daemon]\nworkers = 0", "1 to 256 workers, not 0"),
            ("[daemon]\nkill_every_seconds = 0", "above 0, not 0"),
            (
                "[ramp]\nfrom = 1\nfactor = 2\nsteps = 3\nseconds = 1\nmax_lag_seconds = 1",
                "either",
            ),
            (
                "[[phase]]\nname = \"q\"\nseconds = 1\nrate = 0",
                "rate of phase \"q\"",
            ),
        ] {
            let error = Scenario::parse("a", &format!("{SMALL}{text}\n")).unwrap_err();
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
        let error = Scenario::load("stedy").unwrap_err().to_string();
        assert!(
            error.contains("stedy") && error.contains("steady"),
            "{error}"
        );
    }

    #[test]
    fn sizes_are_as_asked_for() {
        let scenario = Scenario::parse("a", SMALL).unwrap();
        assert_eq!(scenario.world(1).events, 20);
        let larger = scenario.sized(3.0, Some(10.0));
        assert_eq!((larger.seconds(), larger.world(1).events), (10.0, 300));
        let ramp = "about = \"a\"\n[ramp]\nfrom = 100\nfactor = 2\nsteps = 3\nseconds = 1\nmax_lag_seconds = 1\n";
        let ramp = Scenario::parse("r", ramp).unwrap();
        let rates: Vec<f64> = ramp.steps().iter().map(|step| step.rate).collect();
        assert_eq!(rates, [100.0, 200.0, 400.0]);
    }
}
