//! The command line: what can be asked for, and how each command ends.
//!
//! Every command reads the configuration first and does nothing if there is a mistake in it. Results go to standard
//! output, everything else to standard error. A reader that goes away (`penstock dump | head`) ends a command quietly.

mod backfill;
mod config;
mod descriptors;
mod dump;
mod gaps;
mod get;
mod import;
mod outcome;
mod pages;
mod progress;
mod quarantine;
mod reload;
mod repos;
mod run;
mod schema;
mod source;
mod storage;

pub use backfill::{BackfillArgs, BackfillCommand, ScopeArgs, StartArgs};
pub use outcome::{Exit, Failure};

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Config, Loaded, Origin, Sources};
use crate::telemetry::{self, Logs, VERSION};

/// Keeps a store equal to what the AT Protocol network has published.
#[derive(Debug, Parser)]
#[command(name = "penstock", version = VERSION, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 not found or failed, 75 try again later, 78 configuration."
)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

// What every command takes, before or behind its name. (A doc comment would become the help text of each.)
#[derive(Debug, Default, Args)]
struct Overrides {
    /// Read this file [default: $PENSTOCK_CONFIG, ./penstock.toml, /etc/penstock/penstock.toml, the first that exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Set a key of the configuration, over variables and file; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon: follow the relay and keep the store equal to what was published
    Run,
    /// Print the effective settings and where each came from, secrets redacted
    Config,
    /// Print one record as JSON; exit 1 if it is not held
    Get(GetArgs),
    /// Print every record held, one JSON object a line
    Dump(DumpArgs),
    /// Take a full dump into the store, to move or to restore it
    Import(ImportArgs),
    /// Print every repo held, one JSON object a line
    Repos(ReposArgs),
    /// Fetch history: jobs of the running daemon of worker 0
    Backfill(BackfillArgs),
    /// Print what of the window is held and what is missing; exit 1 if anything is
    Gaps(GapsArgs),
    /// What could not be taken in
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Print the CQL of the schema of ScyllaDB or Cassandra, or make it there
    Schema(SchemaArgs),
    /// Write the manual and the completions of shells into a folder, for packages
    #[command(hide = true)]
    Pages(PagesArgs),
}

/// What `penstock get` is asked for.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// at://DID/COLLECTION/RKEY
    pub uri: String,
}

/// What `penstock dump` is asked for.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Only records of this collection
    #[arg(long, value_name = "NSID")]
    pub collection: Option<String>,
    /// Only records of this repo
    #[arg(long, value_name = "DID")]
    pub did: Option<String>,
    /// Leave the records' values out
    #[arg(long)]
    pub no_value: bool,
    /// Leave the records of hidden accounts out
    #[arg(long)]
    pub active: bool,
    /// Print all that 'import' needs to move or to restore the store
    #[arg(long, conflicts_with_all = ["collection", "did", "no_value", "active"])]
    pub full: bool,
}

/// What `penstock import` is asked for.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A full dump, as 'dump --full' prints it; - for standard input
    pub file: PathBuf,
}

/// What `penstock repos` is asked for.
#[derive(Debug, Args)]
pub struct ReposArgs {
    /// Only this repo
    #[arg(long, value_name = "DID")]
    pub did: Option<String>,
}

/// What `penstock gaps` is asked for.
#[derive(Debug, Args)]
pub struct GapsArgs {
    /// Print JSON, as GET /admin/gaps answers
    #[arg(long)]
    pub json: bool,
}

/// What `penstock schema` is asked for.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Make what is not there in the keyspace; what is there is checked and never altered
    #[arg(long)]
    pub apply: bool,
}

/// What `penstock pages` is asked for.
#[derive(Debug, Args)]
pub struct PagesArgs {
    /// Made if it is not there
    pub folder: PathBuf,
}

/// What is done with the quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Print every row, oldest first, one JSON object a line
    List,
    /// Print one row with its raw bytes in base64
    Show {
        /// As `list` prints it
        id: String,
        /// Write the raw bytes themselves, and nothing else
        #[arg(long)]
        raw: bool,
    },
    /// Take frames in again that are readable by now
    Retry {
        /// As `list` prints them
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// Every row
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// The whole program: reads the command line, runs the command, says how it ended.
pub fn main() -> Exit {
    let (command, overrides) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // A reader that is gone does not matter here.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Failed
            } else {
                Exit::Done
            };
        }
    };
    // rustls panics later unless one provider is chosen; a second choice is refused and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match dispatch(command, overrides) {
        Ok(exit) => exit,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command, overrides: Overrides) -> Result<Exit, Failure> {
    let sources = Sources::of_process(overrides.config, overrides.set);
    let loaded = Config::load(&sources)?;
    let logs = start_logs(&loaded, matches!(command, Command::Run))?;
    let config = loaded.config.clone();
    match command {
        Command::Config => config::run(&loaded.settings),
        Command::Run => block_on(run::run(loaded, sources, logs)),
        Command::Get(args) => block_on(get::run(config, args)),
        Command::Dump(args) if args.full => block_on(dump::run_full(config)),
        Command::Dump(args) => block_on(dump::run(config, args)),
        Command::Import(args) => block_on(import::run(config, args)),
        Command::Repos(args) => block_on(repos::run(config, args)),
        Command::Backfill(args) => block_on(backfill::run(config, args)),
        Command::Gaps(args) => block_on(gaps::run(config, args)),
        Command::Quarantine(command) => block_on(quarantine::run(config, command)),
        Command::Schema(args) => block_on(schema::run(config, args)),
        Command::Pages(args) => pages::run(with_overrides(Line::command()), &args.folder),
    }
}

fn parse<T: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = T>,
) -> Result<(Command, Overrides), clap::Error> {
    let mut line = with_overrides(Line::command());
    let matches = line.try_get_matches_from_mut(arguments)?;
    let parsed = Line::from_arg_matches(&matches)?;
    let mut overrides = Overrides::default();
    gather_overrides(&matches, &mut overrides)
        .map_err(|problem| line.error(ErrorKind::ArgumentConflict, problem))?;
    Ok((parsed.command, overrides))
}

/// Declares the overrides at every level. (clap's own global arguments drop those of the outer level where the inner
/// one has some too: a setting would be lost without a word.)
fn with_overrides(command: clap::Command) -> clap::Command {
    Overrides::augment_args(command).mut_subcommands(with_overrides)
}

fn gather_overrides(matches: &ArgMatches, into: &mut Overrides) -> Result<(), String> {
    let found = Overrides::from_arg_matches(matches).map_err(|error| error.to_string())?;
    if found.config.is_some() && into.config.is_some() {
        return Err("the argument '--config <FILE>' cannot be used multiple times".to_owned());
    }
    into.config = found.config.or(into.config.take());
    into.set.extend(found.set);
    match matches.subcommand() {
        Some((_, inner)) => gather_overrides(inner, into),
        None => Ok(()),
    }
}

/// Only the daemon tells what it does; other commands tell of trouble, unless the level was set.
fn start_logs(loaded: &Loaded, is_daemon: bool) -> Result<Logs, Failure> {
    let log = &loaded.config.log;
    let level_is_set = loaded
        .settings
        .iter()
        .any(|setting| setting.key == "log.level" && setting.origin != Origin::Default);
    let level = match is_daemon || level_is_set {
        true => &log.level,
        false => "warn",
    };
    telemetry::start_logs(level, log.format).map_err(|e| Failure::new(Exit::Failed, e.to_string()))
}

fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let end = runtime.block_on(command);
    // A thread that is stuck in a system call must not keep the process: all that was promised is done.
    runtime.shutdown_background();
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        with_overrides(Line::command()).debug_assert();
    }

    #[test]
    fn each_command_says_what_it_does() {
        let line = with_overrides(Line::command());
        let about = |command: &clap::Command| command.get_about().unwrap().to_string();
        assert!(about(&line).starts_with("Keeps a store equal"));
        let dump = line.find_subcommand("dump").unwrap();
        assert!(about(dump).starts_with("Print every record held"));
    }

    #[test]
    fn overrides_of_every_level_count() {
        let line = "penstock --set a=1 quarantine --set b=2 --config x show --set c=3 ID --set a=4";
        let (command, overrides) = parse(line.split(' ')).unwrap();
        assert!(matches!(
            command,
            Command::Quarantine(QuarantineCommand::Show { .. })
        ));
        assert_eq!(overrides.set, ["a=1", "b=2", "c=3", "a=4"]);
        assert_eq!(overrides.config, Some(PathBuf::from("x")));
        let twice = parse("penstock --config x run --config y".split(' '));
        assert_eq!(twice.unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
