//! `penstock gaps`: what of the window is held, and what is missing.

use std::io::Write;

use jiff::SignedDuration;

use super::source::{Source, garbled, stdout};
use super::{Exit, Failure, GapsArgs};
use crate::api::{Gaps, Interval, Missing, MissingReason, MissingState, Tail};
use crate::config::Config;

/// Prints the ledger; exit 1 if anything is missing.
pub(super) async fn run(config: Config, args: GapsArgs) -> Result<Exit, Failure> {
    let source = Source::open(&config).await?;
    let end = print(&source, args).await;
    source.close(end).await
}

async fn print(source: &Source, args: GapsArgs) -> Result<Exit, Failure> {
    let answer = source.client().get("/admin/gaps", &[]).await?;
    let gaps: Gaps = serde_json::from_slice(&answer).map_err(garbled)?;
    let mut out = stdout();
    match args.json {
        true => writeln!(out, "{}", String::from_utf8_lossy(&answer))?,
        false => tell(&gaps, &mut out)?,
    }
    out.flush()?;
    Ok(match gaps.complete {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

fn tell(gaps: &Gaps, out: &mut impl Write) -> std::io::Result<()> {
    list(out, "held", gaps.held.iter().map(interval))?;
    list(out, "missing", gaps.missing.iter().map(missing))?;
    list(
        out,
        "passed, since they can't be read",
        gaps.passed.iter().map(interval),
    )?;
    list(out, "held up to", gaps.tails.iter().map(tail))?;
    writeln!(out, "{}", verdict(gaps))
}

fn list(
    out: &mut impl Write,
    title: &str,
    lines: impl ExactSizeIterator<Item = String>,
) -> std::io::Result<()> {
    if lines.len() > 0 {
        writeln!(out, "{title}:")?;
    }
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn interval(at: &Interval) -> String {
    let seq =
        |seq: Option<u64>, none: &str| seq.map_or_else(|| none.to_owned(), |seq| seq.to_string());
    format!(
        "{} slots {}  {} to {}  seq {} to {}",
        stream(&at.relay, at.generation),
        at.slots,
        at.from.as_deref().unwrap_or("the oldest frame"),
        at.to,
        seq(at.from_seq, "?"),
        seq(at.to_seq, "the newest"),
    )
}

fn missing(missing: &Missing) -> String {
    let state = match (missing.state, missing.reason) {
        (MissingState::Behind, _) => {
            "behind: their worker has yet to read it, or is away".to_owned()
        }
        (MissingState::Pending, _) => "pending: worker 0 will replay it".to_owned(),
        (MissingState::Lost, reason) => {
            let why = match reason {
                Some(MissingReason::Skipped) => "the relay skips it",
                Some(MissingReason::Stale) => {
                    "so old that a replay could bring back what was deleted since"
                }
                _ => "older than what the relay retains",
            };
            let what = match missing.repair {
                true => "to be repaired from the repositories",
                false => {
                    "not worth a repair: the window begins within an hour of what the relay retains"
                }
            };
            format!("lost: {why}; {what}")
        }
    };
    format!("{}  {state}", interval(&missing.interval))
}

fn tail(tail: &Tail) -> String {
    let stream = stream(&tail.relay, tail.generation);
    format!(
        "{stream} slots {}  {}  seq {}  {} ago",
        tail.slots,
        tail.time,
        tail.seq,
        duration(tail.seconds_ago)
    )
}

fn stream(relay: &str, generation: u32) -> String {
    match generation {
        0 => relay.to_owned(),
        generation => format!("{relay} (numbering {generation})"),
    }
}

/// Rounded up to a second.
fn duration(seconds: f64) -> String {
    let time = SignedDuration::try_from_secs_f64(seconds.max(0.0).ceil());
    format!("{:#}", time.unwrap_or(SignedDuration::MAX))
}

/// What it comes to, in a sentence.
fn verdict(gaps: &Gaps) -> String {
    if !gaps.complete {
        let seconds = duration(gaps.missing_seconds);
        return match gaps.days {
            0.0 => format!("Missing: {seconds} between what is held."),
            days if days < 0.0 => format!("Missing: {seconds} of all that the relay retains."),
            days => {
                format!("Missing: {seconds} of the window of {days} d and of what was held before.")
            }
        };
    }
    // Up to where every slot holds all.
    let Some(end) = gaps.tails.iter().map(|tail| &tail.time).min() else {
        return "Nothing is held, and nothing is wanted: BACKFILL_DAYS is 0.".to_owned();
    };
    match (&gaps.wanted_from, gaps.days) {
        (Some(from), _) => format!("Every second since {from} is held, up to {end}."),
        (None, 0.0) => format!(
            "Nothing is missing between what is held, up to {end}; BACKFILL_DAYS is 0, so nothing before it is wanted."
        ),
        (None, _) => format!("All that the relay retains is held, up to {end}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps() -> Gaps {
        Gaps {
            days: 3.0,
            wanted_from: Some("2026-01-01T00:00:00.000000Z".to_owned()),
            now: "2026-01-04T00:00:00.000000Z".to_owned(),
            complete: true,
            missing_seconds: 0.0,
            missing: Vec::new(),
            held: Vec::new(),
            passed: Vec::new(),
            tails: vec![Tail {
                relay: "r".to_owned(),
                generation: 0,
                seq: 9,
                time: "2026-01-04T00:00:00.000000Z".to_owned(),
                seconds_ago: 3.0,
                slots: "0-255".to_owned(),
            }],
        }
    }

    #[test]
    fn a_complete_ledger_says_from_when_to_when() {
        let text = verdict(&gaps());
        assert_eq!(
            text,
            "Every second since 2026-01-01T00:00:00.000000Z is held, up to 2026-01-04T00:00:00.000000Z."
        );
        let nothing = Gaps {
            tails: Vec::new(),
            days: 0.0,
            wanted_from: None,
            ..gaps()
        };
        assert!(verdict(&nothing).starts_with("Nothing is held"));
    }

    #[test]
    fn what_is_lost_says_why_and_what_then() {
        let gone = Missing {
            interval: Interval {
                relay: "r".to_owned(),
                generation: 1,
                from_seq: None,
                to_seq: Some(500),
                from: Some("2026-01-01T00:00:00.000000Z".to_owned()),
                to: "2026-01-02T00:00:00.000000Z".to_owned(),
                slots: "0-255".to_owned(),
            },
            state: MissingState::Lost,
            reason: Some(MissingReason::Expired),
            repair: true,
        };
        let text = missing(&gone);
        for part in [
            "r (numbering 1)",
            "seq ? to 500",
            "older than what the relay retains",
            "repaired",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let all = Gaps {
            complete: false,
            missing: vec![gone],
            missing_seconds: 86_400.0,
            ..gaps()
        };
        assert_eq!(
            verdict(&all),
            "Missing: 24h of the window of 3 d and of what was held before."
        );
    }
}
