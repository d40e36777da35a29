//! `penstock backfill`: jobs, through a running daemon.
//!
//! Ids and jobs go to standard output, one a line; what becomes of a job that is waited for, to standard error.

mod door;
mod scope;
mod wait;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::source::{garbled, print_all, stdout};
use super::{Exit, Failure};
use crate::api::client::Client;
use crate::backfill::jobs::{Force, JobView};
use crate::config::Config;

const JOBS: &str = "/admin/backfill";

/// What is done with jobs, and where.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// Ask the daemon at this URL, with http.admin_token, instead of the one on the socket
    #[arg(long, value_name = "URL", global = true)]
    pub url: Option<Url>,
    /// What is done.
    #[command(subcommand)]
    pub command: BackfillCommand,
}

/// What is done with jobs.
#[derive(Debug, Subcommand)]
pub enum BackfillCommand {
    /// Start a job and print its id; without any scope, over all that is indexed
    Start(StartArgs),
    /// Print every job, newest first, one JSON object a line
    List,
    /// Print one job as JSON
    Show {
        /// As `start` printed it
        id: u64,
        /// Wait until it is over; exit 1 unless everything succeeded
        #[arg(long)]
        wait: bool,
        /// Print the repositories that failed as well, one a line
        #[arg(long)]
        errors: bool,
    },
    /// Cancel a job; one that is over stays as it is
    Cancel {
        /// As `start` printed it
        id: u64,
    },
    /// Take again what failed in a job
    Retry {
        /// As `start` printed it
        id: u64,
        /// Wait until it is over; exit 1 unless everything succeeded
        #[arg(long)]
        wait: bool,
    },
    /// Print what a job would fetch
    Estimate(ScopeArgs),
}

/// What `start` is asked for.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Over what.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Wait until it is over; exit 1 unless everything succeeded
    #[arg(long)]
    pub wait: bool,
}

/// What a job is over.
#[derive(Debug, Args)]
pub struct ScopeArgs {
    /// Only this collection; may be given several times
    #[arg(long, value_name = "NSID")]
    pub collection: Vec<String>,
    /// Only this repository; may be given several times
    #[arg(long, value_name = "DID")]
    pub did: Vec<String>,
    /// Only the repositories of this file, a DID a line; - for standard input
    #[arg(long, value_name = "FILE")]
    pub dids: Option<PathBuf>,
    /// Only the repository of the account with this handle
    #[arg(long)]
    pub handle: Option<String>,
    /// Only so many days before now, fractions allowed; 0: all time
    #[arg(long, value_name = "N")]
    pub days: Option<f64>,
    /// Do it although the ledger does not ask for it
    #[arg(long)]
    pub force: Option<ForceArg>,
}

/// What can be forced.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum ForceArg {
    /// Repair the gaps that the ledger shows, now
    CatchUp,
    /// Fetch every repository, complete or not
    FullSync,
}

impl From<ForceArg> for Force {
    fn from(force: ForceArg) -> Self {
        match force {
            ForceArg::CatchUp => Self::CatchUp,
            ForceArg::FullSync => Self::FullSync,
        }
    }
}

/// Does what was asked for.
pub(super) async fn run(config: Config, args: BackfillArgs) -> Result<Exit, Failure> {
    let client = door::open(&config, args.url).await?;
    match args.command {
        BackfillCommand::Start(args) => start(&client, args).await,
        BackfillCommand::List => {
            print_all(&client, JOBS, Vec::new(), &mut stdout()).await?;
            Ok(Exit::Done)
        }
        BackfillCommand::Show { id, wait, errors } => show(&client, id, wait, errors).await,
        BackfillCommand::Cancel { id } => {
            let job = change(&client, id, "cancel").await?;
            say(&format!("job {id} is {}", job.status.as_str()));
            print_line(job.id.as_bytes())
        }
        BackfillCommand::Retry { id, wait } => {
            let job = change(&client, id, "retry").await?;
            say(&format!("job {id} is {}", job.status.as_str()));
            begun(&client, &job.id, wait).await
        }
        BackfillCommand::Estimate(scope) => {
            let request = scope::request(scope)?;
            let answer = client.post(&format!("{JOBS}/estimate"), &request).await?;
            print_line(&answer)
        }
    }
}

/// What `POST /admin/backfill` answers; without an id there is nothing to do.
#[derive(Deserialize)]
struct Begun {
    message: String,
    id: Option<String>,
}

async fn start(client: &Client, args: StartArgs) -> Result<Exit, Failure> {
    let request = scope::request(args.scope)?;
    let answer: Begun = read(&client.post(JOBS, &request).await?)?;
    say(&answer.message);
    match answer.id {
        Some(id) => begun(client, &id, args.wait).await,
        None => Ok(Exit::Done),
    }
}

/// Prints the id before anything is waited for.
async fn begun(client: &Client, id: &str, wait: bool) -> Result<Exit, Failure> {
    print_line(id.as_bytes())?;
    match wait {
        true => wait::verdict(&wait::until_over(client, id).await?),
        false => Ok(Exit::Done),
    }
}

async fn show(client: &Client, id: u64, wait: bool, errors: bool) -> Result<Exit, Failure> {
    let job = match wait {
        true => Some(wait::until_over(client, &id.to_string()).await?),
        false => None,
    };
    let path = format!("{JOBS}/{id}");
    print_line(&client.get(&path, &[]).await?)?;
    if errors {
        print_all(client, &format!("{path}/errors"), Vec::new(), &mut stdout()).await?;
    }
    job.map_or(Ok(Exit::Done), |job| wait::verdict(&job))
}

async fn change(client: &Client, id: u64, verb: &str) -> Result<JobView, Failure> {
    read(&client.post(&format!("{JOBS}/{id}/{verb}"), &()).await?)
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(garbled)
}

/// One line of results, at once: a script may be waiting for it.
fn print_line(line: &[u8]) -> Result<Exit, Failure> {
    let mut out = stdout();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(Exit::Done)
}

/// A word for people; nothing is lost if nobody reads it.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "penstock: {text}");
}
