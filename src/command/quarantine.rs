//! `penstock quarantine`: what could not be taken in.

use std::io::Write;

use data_encoding::BASE64;
use serde::Deserialize;

use super::source::{Source, garbled, print_all, stdout};
use super::{Exit, Failure, QuarantineCommand};
use crate::api::client::Client;
use crate::api::{RETRY_IDS, RetryOutcome, RetryReport, RetryRequest};
use crate::config::Config;

/// Lists, shows or retries.
pub(super) async fn run(config: Config, command: QuarantineCommand) -> Result<Exit, Failure> {
    let source = Source::open(&config).await?;
    let end = match command {
        QuarantineCommand::List => list(&source).await,
        QuarantineCommand::Show { id, raw } => show(source.client(), &id, raw).await,
        QuarantineCommand::Retry { all: true, .. } => retry_all(source.client()).await,
        QuarantineCommand::Retry { ids, .. } => retry(source.client(), &ids).await,
    };
    source.close(end).await
}

async fn list(source: &Source) -> Result<Exit, Failure> {
    let path = "/admin/quarantine";
    print_all(source.client(), path, Vec::new(), &mut stdout()).await?;
    Ok(Exit::Done)
}

#[derive(Deserialize)]
struct Frame {
    raw: Option<String>,
}

async fn show(client: &Client, id: &str, raw: bool) -> Result<Exit, Failure> {
    let row = client.get_item("/admin/quarantine", id).await?;
    let mut out = stdout();
    if !raw {
        out.write_all(&row)?;
        out.write_all(b"\n")?;
        out.flush()?;
        return Ok(Exit::Done);
    }
    let frame: Frame = serde_json::from_slice(&row).map_err(garbled)?;
    let Some(base64) = frame.raw else {
        let message = format!("the bytes of {id} were dropped to keep within quarantine.max_bytes");
        return Err(Failure::new(Exit::Failed, message));
    };
    let bytes = BASE64.decode(base64.as_bytes());
    let bytes = bytes.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    out.write_all(&bytes)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// How many frames were taken in, and how many not.
#[derive(Default)]
struct Tally {
    taken: u64,
    left: u64,
}

async fn retry(client: &Client, ids: &[String]) -> Result<Exit, Failure> {
    let mut tally = Tally::default();
    for ids in ids.chunks(RETRY_IDS) {
        let request = RetryRequest {
            ids: ids.to_vec(),
            ..RetryRequest::default()
        };
        tally.print(&send(client, &request).await?)?;
    }
    tally.end()
}

async fn retry_all(client: &Client) -> Result<Exit, Failure> {
    let mut tally = Tally::default();
    let mut request = RetryRequest {
        all: true,
        ..RetryRequest::default()
    };
    loop {
        let report = send(client, &request).await?;
        tally.print(&report)?;
        request.cursor = report.cursor;
        if request.cursor.is_none() {
            return tally.end();
        }
    }
}

async fn send(client: &Client, request: &RetryRequest) -> Result<RetryReport, Failure> {
    let answer = client.post("/admin/quarantine/retry", request).await?;
    serde_json::from_slice(&answer).map_err(garbled)
}

impl Tally {
    /// One line for each frame.
    fn print(&mut self, report: &RetryReport) -> Result<(), Failure> {
        let mut out = stdout();
        for result in &report.results {
            match result.outcome {
                RetryOutcome::Applied | RetryOutcome::Repair => self.taken += 1,
                _ => self.left += 1,
            }
            serde_json::to_writer(&mut out, result).map_err(std::io::Error::from)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Exit 1 if anything could still not be taken in.
    fn end(self) -> Result<Exit, Failure> {
        let Self { taken, left } = self;
        if left == 0 {
            return Ok(Exit::Done);
        }
        let message = format!("{left} of {} frames were not taken in", taken + left);
        Err(Failure::new(Exit::Failed, message))
    }
}
