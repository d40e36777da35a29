//! The `penstock-loadtest` command: a simulated relay, prepared streams, and the comparison with what must be held.

mod serve;

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use penstock_loadtest::{
    ConnectionFaults, Corruption, Cursors, DropKind, Future, Oracle, OracleLines, Outdated, Pace,
    Prepared, Refusal, RelayOptions, RelayServer, Restart, Retained, Served, Signatures,
    StreamFaults, World, WorldSpec, check, lag,
    network::{Network, Options as NetworkOptions},
    prepare, run,
    speed::{By, measure},
};

/// Simulates AT Protocol relays from a seed, and checks what a consumer made of them.
#[derive(Parser)]
#[command(name = "penstock-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a simulated stream until it is stopped; prints one JSON line with its URL once it is ready.
    ///
    /// Serves subscribeRepos, a PLC directory at GET /{did} and the expected state at GET /oracle.
    Relay(Box<RelayArgs>),
    /// Serves a simulated network of PDSes, a PLC directory and a relay's lists until it is stopped; prints one JSON line with
    /// their URLs once it is ready.
    Network(Box<serve::NetworkArgs>),
    /// Makes a stream into a folder: frames.bin, frames.idx, oracle.jsonl, accounts.jsonl, manifest.json.
    Prepare(Box<PrepareArgs>),
    /// Compares a dump with the expected state; exits 1 if anything is missing, extra or different.
    Check(CheckArgs),
    /// Runs a scenario: relay, daemon, faults, and the comparison in the end; exits 0 if nothing was lost, 1 if anything was.
    Run(run::Args),
    /// Measures how fast a daemon takes a prepared stream in; prints JSON: durable events a second in each quarter, memory, CPU.
    Speed(SpeedArgs),
    /// Measures how far a daemon is behind a prepared stream of a steady rate while jobs take repositories in; prints JSON.
    Lag(LagArgs),
}

#[derive(Args)]
struct SpeedArgs {
    /// The folder that `prepare` made
    #[arg(long)]
    dir: PathBuf,
    /// The daemon, built with --release
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
    /// Where the daemon's store goes; must not exist [default: a folder beside the stream, removed afterwards]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Let worker 0's replay read it, instead of the live stream
    #[arg(long)]
    replay: bool,
    /// Settings of the daemon, as in `penstock run --set key=value`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct LagArgs {
    /// The folder that `prepare` made
    #[arg(long)]
    dir: PathBuf,
    /// Events a second
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Repositories that jobs fetch, again and again, on 4 hosts, which keep 16 as they were made; 0: no jobs
    #[arg(long, default_value_t = 16)]
    repos: usize,
    /// Records of each
    #[arg(long, default_value_t = 20_000)]
    records: usize,
    /// The daemon, built with --release
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
    /// Settings of the daemon, as in `penstock run --set key=value`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct WorldArgs {
    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of accounts
    #[arg(long, default_value_t = 100)]
    repos: usize,
    /// Number of events
    #[arg(long, default_value_t = 10_000)]
    events: u64,
    /// When the history ends (RFC 3339) [default: 10 seconds ago]
    #[arg(long)]
    end: Option<jiff::Timestamp>,
    /// How long it is, in seconds [default: 400 events a second]
    #[arg(long)]
    duration: Option<f64>,
    /// So many of the events come before that
    #[arg(long, default_value_t = 0)]
    past_events: u64,
    /// And are spread over so many days
    #[arg(long, default_value_t = 3.0)]
    past_days: f64,
    /// How commits are signed
    #[arg(long, value_enum, default_value_t = Signatures::Real)]
    signatures: Signatures,
    /// Share of accounts that are created within the history
    #[arg(long, default_value_t = 0.25)]
    fresh: f64,
    /// Mean number of records of the other accounts from before the history
    #[arg(long, default_value_t = 10_000)]
    prefill: usize,
    /// Share of records that break the data model under a CID that is right
    #[arg(long, default_value_t = 0.001)]
    odd_records: f64,
    /// Share of account and identity events with an old or unreadable time
    #[arg(long, default_value_t = 0.05)]
    odd_times: f64,
    /// Share of P-256 keys
    #[arg(long, default_value_t = 0.1)]
    p256: f64,
    /// The first number of the stream
    #[arg(long, default_value_t = 1)]
    first_seq: u64,
    /// The numbers begin anew after so many events; the relay then forgets what was before
    #[arg(long)]
    restart_after: Option<u64>,
    /// With this number
    #[arg(long, default_value_t = 1)]
    restart_seq: u64,
    /// Share of commits that are followed by a corrupt copy
    #[arg(long, default_value_t = 0.0)]
    corrupt: f64,
    /// Classes of corruption, comma separated [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    corrupt_classes: Vec<Corruption>,
    /// Number of frames above 16 MiB
    #[arg(long, default_value_t = 0)]
    oversized: u32,
    /// Number of frames above 5 MB
    #[arg(long, default_value_t = 0)]
    too_large: u32,
    /// Number of frames that break the connection whenever they are reached
    #[arg(long, default_value_t = 0)]
    poison: u32,
    /// Share of frames that are sent twice
    #[arg(long, default_value_t = 0.0)]
    duplicates: f64,
    /// Share of frames that are followed by an earlier event under a new number
    #[arg(long, default_value_t = 0.0)]
    renumbered: f64,
    /// Share of frames before which numbers are left out
    #[arg(long, default_value_t = 0.0)]
    gaps: f64,
    /// Share of neighbours of different DIDs that swap places
    #[arg(long, default_value_t = 0.0)]
    reordered: f64,
    /// Share of frames that are followed by an #info
    #[arg(long, default_value_t = 0.0)]
    infos: f64,
}

impl WorldArgs {
    fn spec(&self) -> anyhow::Result<WorldSpec> {
        let shares = [
            ("fresh", self.fresh),
            ("odd-records", self.odd_records),
            ("odd-times", self.odd_times),
            ("p256", self.p256),
            ("corrupt", self.corrupt),
            ("duplicates", self.duplicates),
            ("renumbered", self.renumbered),
            ("gaps", self.gaps),
            ("reordered", self.reordered),
            ("infos", self.infos),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                bail!("--{name} is a share between 0 and 1, not {share}");
            }
        }
        let end = self.end.map(|end| end.as_microsecond().max(0) as u64);
        let mut spec = WorldSpec {
            seed: self.seed,
            repos: self.repos.max(1),
            events: self.events,
            start: None,
            end,
            past_events: self.past_events,
            past: match self.past_events {
                0 => 0,
                _ => (self.past_days.max(0.0) * 86_400e6) as u64,
            },
            signatures: self.signatures,
            fresh: self.fresh,
            prefill: self.prefill,
            odd_records: self.odd_records,
            odd_times: self.odd_times,
            p256: self.p256,
            first_seq: self.first_seq,
            restart: self.restart_after.map(|after| Restart {
                after,
                first_seq: self.restart_seq,
            }),
            faults: StreamFaults {
                corrupt: self.corrupt,
                corrupt_classes: self.corrupt_classes.clone(),
                oversized: self.oversized,
                too_large: self.too_large,
                poison: self.poison,
                duplicates: self.duplicates,
                renumbered: self.renumbered,
                gaps: self.gaps,
                reordered: self.reordered,
                infos: self.infos,
            },
        };
        if let Some(seconds) = self.duration {
            let (_, end) = spec.span();
            spec.end = Some(end);
            spec.start = Some(end.saturating_sub((seconds.max(0.0) * 1e6) as u64));
        }
        Ok(spec)
    }
}

#[derive(Args)]
struct RelayArgs {
    #[command(flatten)]
    world: WorldArgs,
    /// Serve a prepared folder; what describes the world is then ignored
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to listen; port 0 is a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the expected state here at the start
    #[arg(long)]
    oracle: Option<PathBuf>,
    /// Numbers that become visible per second [default: all at once]
    #[arg(long)]
    rate: Option<f64>,
    /// Numbers that are visible at the start, with --rate
    #[arg(long, default_value_t = 0)]
    published: usize,
    /// Replay from the cursor's own number on (>=)
    #[arg(long)]
    inclusive: bool,
    /// What happens to a cursor before the oldest number retained
    #[arg(long, value_enum, default_value_t = Outdated::Info)]
    outdated: Outdated,
    /// What happens to a cursor ahead of the newest number
    #[arg(long, value_enum, default_value_t = Future::Error)]
    future: Future,
    /// What happens to a cursor that could be served
    #[arg(long, value_enum, default_value_t = Retained::Served)]
    retained: Retained,
    /// The oldest number retained; POST /retain-from/{seq} changes it
    #[arg(long, default_value_t = 0)]
    oldest_seq: u64,
    /// Frames that a live subscriber may fall behind before ConsumerTooSlow
    #[arg(long)]
    too_slow: Option<usize>,
    /// End a connection after about so many frames
    #[arg(long)]
    drop_every: Option<u64>,
    /// How it ends
    #[arg(long, value_enum, default_value_t = DropKind::Any)]
    drop_kind: DropKind,
    /// Stop sending after about so many frames
    #[arg(long)]
    stall_every: Option<u64>,
    /// For so many seconds [default: until the client gives up]
    #[arg(long)]
    stall_for: Option<f64>,
    /// Send a text message after about so many frames
    #[arg(long)]
    text_every: Option<u64>,
    /// The first playback that comes to this number goes on at the live head
    #[arg(long)]
    jump_to_live: Option<u64>,
    /// Statuses of the answers to the first connects, such as 405,426,429,503 (429 comes with Retry-After: 1, 503 with HTML)
    #[arg(long, value_delimiter = ',')]
    refuse: Vec<u16>,
}

impl RelayArgs {
    fn options(&self) -> anyhow::Result<RelayOptions> {
        if let Some(rate) = self.rate
            && rate <= 0.0
        {
            bail!("--rate is a number above 0, not {rate}");
        }
        let refusal = |status: &u16| match status {
            429 => Refusal::too_many_requests(1),
            503 => Refusal::unavailable(),
            status => Refusal::status(*status),
        };
        Ok(RelayOptions {
            listen: self.listen,
            pace: self.rate.map_or(Pace::Unlimited, Pace::Rate),
            published: self.published,
            cursors: Cursors {
                inclusive: self.inclusive,
                outdated: self.outdated,
                future: self.future,
                retained: self.retained,
            },
            oldest_seq: self.oldest_seq,
            too_slow: self.too_slow,
            faults: ConnectionFaults {
                seed: self.world.seed,
                drop_every: self.drop_every,
                drop_kind: self.drop_kind,
                stall_every: self.stall_every,
                stall_for: self
                    .stall_for
                    .map(|seconds| Duration::from_secs_f64(seconds.max(0.0))),
                text_every: self.text_every,
                jump_to_live: self.jump_to_live,
                refusals: self.refuse.iter().map(refusal).collect(),
            },
            lists: None,
        })
    }
}

#[derive(Args)]
struct PrepareArgs {
    #[command(flatten)]
    world: WorldArgs,
    /// The folder; it is created
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Args)]
struct CheckArgs {
    /// The expected state, from `prepare`, `relay --oracle` or GET /oracle
    #[arg(long)]
    oracle: PathBuf,
    /// What `penstock dump` printed
    #[arg(long)]
    dump: PathBuf,
    /// What `penstock repos` printed
    #[arg(long)]
    repos: Option<PathBuf>,
}

fn speed(args: &SpeedArgs) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::open(&args.dir)
        .with_context(|| format!("{} is no folder of `prepare`", args.dir.display()))?;
    let beside = args.dir.join("speed-store");
    let data = args.data.as_ref().unwrap_or(&beside);
    let by = match args.replay {
        true => By::Replay,
        false => By::Live,
    };
    let speed = measure(&prepared, &args.penstock, data, by, &args.set)?;
    println!("{}", serde_json::to_string_pretty(&speed)?);
    if args.data.is_none() {
        std::fs::remove_dir_all(&beside)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lag(args: &LagArgs) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::open(&args.dir)
        .with_context(|| format!("{} is no folder of `prepare`", args.dir.display()))?;
    let network = match args.repos {
        0 => None,
        repos => Some(Network::start(NetworkOptions {
            hosts: 4,
            repos,
            large: repos,
            large_records: args.records,
            did_web: 0.0,
            ..NetworkOptions::default()
        })?),
    };
    let data = args.dir.join("lag-store");
    let (daemon, set) = (&args.penstock, &args.set);
    let lag = lag::measure(&prepared, args.rate, network.as_ref(), daemon, &data, set)?;
    println!("{}", serde_json::to_string_pretty(&lag)?);
    std::fs::remove_dir_all(&data)?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(std::io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Relay(args) => relay(&args),
        Command::Network(args) => serve::network(&args),
        Command::Prepare(args) => make(&args),
        Command::Run(args) => run::Stop::at_signals()
            .map(|stop| run::command(&args, &stop).into())
            .context("listening to signals"),
        Command::Check(args) => compare(&args),
        Command::Speed(args) => speed(&args),
        Command::Lag(args) => lag(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("penstock-loadtest: {error:#}");
        ExitCode::FAILURE
    })
}

fn relay(args: &RelayArgs) -> anyhow::Result<ExitCode> {
    let options = args.options()?;
    let (served, summary) = match &args.dir {
        Some(dir) => {
            let prepared = Prepared::open(dir).with_context(|| {
                format!("{} is not a prepared folder (see `prepare`)", dir.display())
            })?;
            (Served::from(&prepared), prepared.manifest.summary)
        }
        None => {
            let world = World::generate(&args.world.spec()?);
            (Served::from(&world), world.summary)
        }
    };
    if let Some(path) = &args.oracle {
        write_oracle(&served.oracle, path)?;
    }
    let server = RelayServer::start(served, options)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let ready = serde_json::json!({
        "url": server.url(),
        "plc_url": server.http_url(),
        "oracle_url": format!("{}/oracle", server.http_url()),
        "summary": summary,
    });
    serve::until_stopped(&ready)?;
    eprintln!(
        "{} connections, {} frames sent",
        server.connections(),
        server.frames_sent()
    );
    Ok(ExitCode::SUCCESS)
}

fn write_oracle(lines: &OracleLines, path: &Path) -> anyhow::Result<()> {
    let result = match lines {
        OracleLines::Memory(oracle) => std::fs::write(path, oracle.to_lines()),
        OracleLines::File(from) => std::fs::copy(from, path).map(drop),
    };
    result.with_context(|| format!("cannot write {}", path.display()))
}

fn make(args: &PrepareArgs) -> anyhow::Result<ExitCode> {
    let spec = args.world.spec()?;
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let manifest = prepare(&spec, &args.dir, |made| {
        if terminal {
            eprint!("\r{made} of {} events", spec.events);
        }
        Ok(())
    })
    .with_context(|| format!("cannot prepare {}", args.dir.display()))?;
    let seconds = started.elapsed().as_secs_f64();
    let per_event = seconds * 1e6 / spec.events.max(1) as f64;
    if terminal {
        eprintln!();
    }
    eprintln!(
        "{} frames of {:.2} kB in {seconds:.1} s ({per_event:.1} µs an event)",
        manifest.summary.frames,
        manifest.summary.bytes as f64 / 1e3 / manifest.summary.frames.max(1) as f64,
    );
    println!("{}", serde_json::to_string(&manifest)?);
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let open = |path: &Path| -> anyhow::Result<BufReader<File>> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(BufReader::with_capacity(1 << 20, file))
    };
    let oracle =
        Oracle::read(open(&args.oracle)?).with_context(|| args.oracle.display().to_string())?;
    let repos = args.repos.as_deref().map(open).transpose()?;
    let diff = check(&oracle, open(&args.dump)?, repos).context("cannot compare")?;
    println!("{diff}");
    Ok(match diff.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
