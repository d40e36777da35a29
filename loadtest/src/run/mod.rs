//! `penstock-loadtest run`: a scenario from its file to its report.
//!
//! The relay runs in this process; daemons are processes of their own with an empty store. In the end what their store holds
//! is compared with the oracle, and the exit code says whether anything was lost.

mod cluster;
mod cpu;
mod held;
mod picture;
mod progress;
mod publications;
mod report;
mod requirements;
mod scenario;
mod slow_store;
mod stop;
mod story;
mod table;
mod work;
mod workers;

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

pub use report::{Injected, Lags, Limit, Machine, Moment, Outcome, Report, Sample, Step};
pub use scenario::{
    Daemon, Limits, Phase, Ramp, Relay, SCENARIOS, Scenario, ScenarioError, Store, Stream,
};
pub use stop::Stop;

use crate::world::{Summary, WorldSpec};
use crate::{Pace, Prepared, RelayOptions, RelayServer, prepare};
use cluster::Keyspace;
use cpu::Cpu;
use progress::Progress;
use publications::Publications;
use slow_store::SlowStore;
use story::{Happened, Story};
use work::Work;
use workers::{Installation, Totals, Workers};

/// Not as asked for: a mistake in the scenario or the arguments, or something that is not installed.
const MISTAKE: u8 = 78;

/// What `run` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Its name (steady, ramp, replay, burst, slow-store, relay-flaps, corrupt-frames, kills, reshard, soak), or a file
    pub scenario: String,
    /// The daemon [default: penstock, beside this program]
    #[arg(long)]
    pub penstock: Option<PathBuf>,
    /// Where the report goes: report.json, report.md, report.svg, penstock.log [default: load-SCENARIO]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Times the rates of the scenario
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// How long it lasts, without making the stream, and the end [default: as the scenario says]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep it on the cluster of SCYLLA_NODES, in a keyspace of its own, instead of in the embedded store
    #[arg(long)]
    pub cql: bool,
    /// Settings of the daemon, as in `penstock run --set key=value`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Something to mend before it can be run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Mistake(String);

/// Runs a scenario, prints its report, and gives the exit code: 0 nothing is lost; 1 something is lost, wrong or there twice, or
/// the run did not come to its end; 3 nothing is lost, but a limit of the scenario was not kept; 78 a mistake in what was asked for;
/// 129, 130 or 143 it was stopped by SIGHUP, SIGINT or SIGTERM, and there is no report.
pub fn command(args: &Args, stop: &Stop) -> u8 {
    match (run(args, stop), stop.check()) {
        (Ok(report), _) => {
            // Nobody may be there to read it; it is in the folder too.
            let _ = write!(std::io::stdout(), "{report}");
            report.exit_code()
        }
        (Err(_), Err(stopped)) => {
            eprintln!(
                "penstock-loadtest: {stopped}: no daemon runs any more, what they stored in this run's own places is removed, there is no report"
            );
            stopped.exit_code()
        }
        (Err(error), Ok(())) => {
            eprintln!("penstock-loadtest: {error:#}");
            match error.is::<Mistake>() || error.is::<ScenarioError>() {
                true => MISTAKE,
                false => 1,
            }
        }
    }
}

fn run(args: &Args, stop: &Stop) -> anyhow::Result<Report> {
    sizes(args)?;
    let scenario = Scenario::load(&args.scenario)?.sized(args.scale, args.seconds);
    let (penstock, version) = requirements::daemon(args)?;
    let cql = args.cql || scenario.needs_cql();
    requirements::look(&scenario, cql)?;
    let delay = scenario.store.sync_delay_ms.map(Duration::from_millis);
    let slow_store = delay.map(|delay| SlowStore::new(delay, cql)).transpose()?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => format!("load-{}", scenario.name).into(),
    };
    let work = Work::new(&out)?;
    let say = Progress::new(&scenario.name);

    let prepared = make(&scenario.world(args.seed), &work, stop, &say)?;
    let options = RelayOptions {
        pace: Pace::Manual,
        published: usize::try_from(scenario.stream.past)?,
        faults: scenario.connection_faults(args.seed),
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&prepared, options)?;
    let keyspace = cql.then(Keyspace::of_this_run).flatten();
    let installation = Installation {
        penstock,
        data: work.data(),
        log: work.log(),
        variables: variables(&scenario, &work, &relay, keyspace.as_ref())?,
        cql,
        set: [&scenario.daemon.set[..], &args.set].concat(),
        slow_store,
    };
    let mut workers = Workers::new(installation);
    let running = Running {
        scenario: &scenario,
        seed: args.seed,
        prepared: &prepared,
        relay: &relay,
        stop,
        say: &say,
    };
    let report = running.to_its_end(&mut workers, version);
    if stop.check().is_err() {
        say.tell("stopping the daemons");
        if let Err(error) = workers.stop() {
            eprintln!("penstock-loadtest: {error:#}");
        }
    }
    let report = report?;
    write(&report, &out)?;
    Ok(report)
}

/// Makes the stream.
fn make(
    spec: &WorldSpec,
    work: &Work,
    stop: &Stop,
    say: &Progress<'_>,
) -> anyhow::Result<Prepared> {
    let events = spec.events;
    prepare(spec, &work.stream(), |made| {
        say.tell(&format!("making the stream: {made} of {events} events"));
        Ok(stop.check()?)
    })
    .context("making the stream")?;
    Ok(Prepared::open(&work.stream())?)
}

/// A run whose stream is made.
struct Running<'a> {
    scenario: &'a Scenario,
    seed: u64,
    prepared: &'a Prepared,
    relay: &'a RelayServer,
    stop: &'a Stop,
    say: &'a Progress<'a>,
}

impl Running<'_> {
    /// What comes of it. If it fails, daemons may still run.
    fn to_its_end(&self, workers: &mut Workers, version: String) -> anyhow::Result<Report> {
        let (began, before) = (jiff::Timestamp::now(), Cpu::now()?);
        let happened = self.happen(workers)?;
        let used = Cpu::now()?.since(before);

        self.say.tell("comparing what is held with what must be");
        let held = held::look(&workers.installation, self.prepared, self.stop)?;
        let (summary, totals) = (&self.prepared.manifest.summary, workers.totals());
        let seconds = happened.samples.last().map_or(0.0, |last| last.at);
        let others = (used.all - used.own - totals.cpu_seconds).max(0.0);
        let store = match workers.installation.cql {
            true => "CQL",
            false => "embedded",
        };
        let mut report = Report {
            scenario: self.scenario.name.clone(),
            about: self.scenario.about.clone(),
            seed: self.seed,
            began: format!("{began:.0}"),
            seconds,
            machine: Machine {
                version,
                store,
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                daemon_cpu_seconds: totals.cpu_seconds,
                simulator_cpu_seconds: used.own,
                others_cores: others / seconds.max(1.0),
            },
            injected: injected(summary, &happened, self.relay, &totals),
            outcome: Outcome {
                duplicates_applied: totals.events.saturating_sub(events(summary)),
                to_quarantine: held.to_quarantine,
                quarantined: held.quarantined,
                unfinished: happened.unfinished.clone(),
                ..Outcome::of(&held.diff)
            },
            lag: Lags::of(in_phases(&happened)),
            memory_max: totals.memory_max,
            sustained: happened.sustained,
            limits: Vec::new(),
            steps: happened.steps,
            moments: happened.moments,
            samples: report::thinned(&happened.samples, 1.0),
        };
        report.judge(&self.scenario.limits);
        Ok(report)
    }

    /// Lets the scenario happen, while what the relay publishes is noted.
    fn happen(&self, workers: &mut Workers) -> anyhow::Result<Happened> {
        let publications = Publications::new();
        let story = Story::new(
            self.scenario,
            (self.prepared, self.relay),
            &publications,
            workers,
            self.stop,
            self.seed,
            |phase: &str, sample: &Sample| self.say.sample(phase, sample),
        );
        std::thread::scope(|scope| {
            scope.spawn(|| publications.follow(self.relay));
            let happened = story.play();
            publications.end();
            happened
        })
    }
}

fn sizes(args: &Args) -> Result<(), Mistake> {
    for (name, value) in [("scale", Some(args.scale)), ("seconds", args.seconds)] {
        if let Some(value) = value
            && !(value > 0.0 && value < 1e6)
        {
            let mistake = format!("--{name} is a number above 0, not {value}");
            return Err(Mistake(mistake));
        }
    }
    Ok(())
}

/// What sets a daemon to this run, whatever configures the machine.
fn variables(
    scenario: &Scenario,
    work: &Work,
    relay: &RelayServer,
    keyspace: Option<&Keyspace>,
) -> anyhow::Result<Vec<(&'static str, OsString)>> {
    let file = work.configuration();
    fs::write(&file, "")?;
    let mut variables: Vec<(&str, OsString)> = vec![
        ("PENSTOCK_CONFIG", file.into()),
        ("RELAY_URL", relay.url().into()),
        // Nobody is asked about the DIDs of a simulation.
        ("PLC_URL", "http://127.0.0.1:1".into()),
        ("HTTP_LISTEN", "127.0.0.1:0".into()),
        ("RUST_LOG", "info".into()),
        match scenario.stream.past {
            0 => ("PENSTOCK_RELAY__START", "oldest".into()),
            _ => ("BACKFILL_DAYS", "-1".into()),
        },
    ];
    variables.extend(keyspace.map(|own| ("SCYLLA_KEYSPACE", own.name().into())));
    Ok(variables)
}

/// Distinct events that a daemon decodes.
fn events(summary: &Summary) -> u64 {
    summary.commits + summary.syncs + summary.identities + summary.accounts
}

fn injected(
    summary: &Summary,
    happened: &Happened,
    relay: &RelayServer,
    totals: &Totals,
) -> Injected {
    let unreadable = [
        &summary.oversized_seqs,
        &summary.too_large_seqs,
        &summary.poison_seqs,
    ];
    let downs = happened
        .moments
        .iter()
        .filter(|moment| moment.what == "down");
    Injected {
        events: events(summary),
        frames: summary.frames,
        bytes: summary.bytes,
        kills: totals.kills,
        downs: downs.count() as u64,
        refused: relay.refused(),
        reconnects: totals.reconnects,
        corrupt: summary.corrupt_total,
        unreadable: unreadable.iter().map(|seqs| seqs.len() as u64).sum(),
        duplicates: summary.duplicates,
        renumbered: summary.renumbered,
        reordered: summary.reordered,
    }
}

/// The samples of the phases, without those of the rest that is published at once.
fn in_phases(happened: &Happened) -> &[Sample] {
    let rest = happened.steps.iter().filter(|step| step.rate.is_none());
    let seconds: f64 = rest.map(|step| step.seconds).sum();
    let samples = &happened.samples;
    let end = samples.last().map_or(0.0, |last| last.at - seconds);
    &samples[..samples.partition_point(|sample| sample.at <= end)]
}

fn write(report: &Report, out: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_vec_pretty(report)?;
    fs::write(out.join("report.json"), json).context("writing the report")?;
    fs::write(out.join("report.md"), report.to_string())?;
    picture::draw(report, &out.join("report.svg"))
}
