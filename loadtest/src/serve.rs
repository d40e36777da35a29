//! The command `network`, and how a server waits for its end.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use penstock_loadtest::network::{Announce, Fault, Limit, Network, Options, RelayRepos};

#[derive(Args)]
pub struct NetworkArgs {
    /// Seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of PDSes, each on an address of its own
    #[arg(long, default_value_t = 10)]
    hosts: usize,
    /// Number of accounts
    #[arg(long, default_value_t = 1_000)]
    repos: usize,
    /// Mean number of records of a repository
    #[arg(long, default_value_t = 20)]
    records: usize,
    /// So many repositories are larger
    #[arg(long, default_value_t = 0)]
    large: usize,
    /// With so many records
    #[arg(long, default_value_t = 20_000)]
    large_records: usize,
    /// Share of accounts with a fault, as in truncated=0.01; `all` is each of them
    #[arg(long, value_name = "FAULT=SHARE", value_parser = shares)]
    fault: Vec<Vec<(Fault, f64)>>,
    /// Share of hosts with a fault
    #[arg(long, value_name = "FAULT=SHARE", value_parser = shares)]
    host_fault: Vec<Vec<(Fault, f64)>>,
    /// Every host allows so many requests in 10 seconds, and says so in headers
    #[arg(long)]
    limit: Option<u32>,
    /// The relay has a copy of every repository, instead of redirecting to the PDS
    #[arg(long)]
    relay_serves: bool,
    /// Which port the PDSes listen on [default: a free one]
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to write the expected state
    #[arg(long)]
    oracle: Option<PathBuf>,
}

fn shares(text: &str) -> Result<Vec<(Fault, f64)>, String> {
    let (name, share) = text.split_once('=').ok_or("FAULT=SHARE")?;
    let share = share.parse().map_err(|error| format!("{share}: {error}"))?;
    match name {
        "all" => Ok(Fault::ALL.iter().map(|fault| (*fault, share)).collect()),
        name => Ok(vec![(Fault::from_str(name, false)?, share)]),
    }
}

impl NetworkArgs {
    fn options(&self) -> anyhow::Result<Options> {
        let options = Options {
            seed: self.seed,
            hosts: self.hosts,
            repos: self.repos,
            records: self.records,
            large: self.large,
            large_records: self.large_records,
            faults: self.fault.concat(),
            host_faults: self.host_fault.concat(),
            limits: self
                .limit
                .map(|requests| (limit(requests), 1.0))
                .into_iter()
                .collect(),
            relay_repos: match self.relay_serves {
                true => RelayRepos::Serve,
                false => RelayRepos::Redirect,
            },
            port: self.port,
            ..Options::default()
        };
        for shares in [&options.faults, &options.host_faults] {
            let sum: f64 = shares.iter().map(|(_, share)| share).sum();
            if !(0.0..=1.0).contains(&sum) {
                bail!("shares of faults add up to {sum}, which is not between 0 and 1");
            }
        }
        Ok(options)
    }
}

fn limit(requests: u32) -> Limit {
    Limit {
        requests,
        window: Duration::from_secs(10),
        announce: Announce::All,
    }
}

/// Serves a network.
pub fn network(args: &NetworkArgs) -> anyhow::Result<ExitCode> {
    let network = Network::start(args.options()?).context("cannot listen")?;
    if let Some(path) = &args.oracle {
        std::fs::write(path, network.oracle().to_lines())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let ready = serde_json::json!({
        "plc_url": network.plc_url(),
        "relay_url": network.relay_url(),
        "hosts": network.host_urls().collect::<Vec<_>>(),
    });
    until_stopped(&ready)?;
    let requests: u64 = network
        .host_stats()
        .iter()
        .map(|stats| stats.requests)
        .sum();
    eprintln!("{requests} requests to PDSes");
    Ok(ExitCode::SUCCESS)
}

/// Says that all is ready, and waits for SIGINT or SIGTERM.
pub fn until_stopped(ready: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{ready}")?;
    out.flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = term.recv() => Ok(()),
        }
    })?;
    Ok(())
}
