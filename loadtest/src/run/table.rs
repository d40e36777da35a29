//! A report for people: Markdown, which is read on a terminal as well.

use std::fmt::{self, Write as _};

use super::report::{Limit, MIB, Report};

/// A number with commas.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn count(number: u64) -> String {
    grouped(number as f64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, lag) = (&self.machine, &self.lag);
        writeln!(
            f,
            "### {}\n\n{}. {}\n",
            self.scenario,
            self.about,
            verdict(self)
        )?;
        writeln!(
            f,
            "| phase | published/s | durable/s | lag: median, 99 %, highest | memory |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        for step in &self.steps {
            writeln!(
                f,
                "| {}, {:.0} s | {} | {} | {:.1}, {:.1}, {:.1} s | {:.0} MiB |",
                step.name,
                step.seconds,
                grouped(step.published_per_second),
                grouped(step.durable_per_second),
                step.lag.median,
                step.lag.p99,
                step.lag.max,
                step.memory_max as f64 / MIB,
            )?;
        }
        writeln!(f, "\n| what | |\n| --- | --- |")?;
        let (injected, outcome) = (&self.injected, &self.outcome);
        let mut row = |what: &str, value: String| writeln!(f, "| {what} | {value} |");
        if let Some(rate) = self.sustained {
            row("highest sustained rate", format!("{}/s", grouped(rate)))?;
        }
        row(
            "events; frames; MB",
            format!(
                "{}; {}; {}",
                count(injected.events),
                count(injected.frames),
                count(injected.bytes / 1_000_000)
            ),
        )?;
        row("faults, all", count(injected.faults()))?;
        row(
            "kills; relay down; refused; reconnects",
            format!(
                "{}; {}; {}; {}",
                injected.kills, injected.downs, injected.refused, injected.reconnects
            ),
        )?;
        row(
            "frames corrupt; unreadable; twice; again; swapped",
            format!(
                "{}; {}; {}; {}; {}",
                count(injected.corrupt),
                injected.unreadable,
                count(injected.duplicates),
                count(injected.renumbered),
                count(injected.reordered)
            ),
        )?;
        row(
            "records; repositories compared",
            format!("{}; {}", count(outcome.records), count(outcome.repos)),
        )?;
        row(
            "lost; extra; different",
            format!("{}; {}; {}", outcome.lost, outcome.extra, outcome.different),
        )?;
        row(
            "duplicates applied, at least; visible",
            format!(
                "{}; {}",
                count(outcome.duplicates_applied),
                outcome.duplicates_visible
            ),
        )?;
        row(
            "in the quarantine; must be",
            format!(
                "{}; {}",
                count(outcome.quarantined),
                count(outcome.to_quarantine)
            ),
        )?;
        row(
            "lag: median; 90 %; 99 %; highest",
            format!(
                "{:.2}; {:.2}; {:.2}; {:.2} s",
                lag.median, lag.p90, lag.p99, lag.max
            ),
        )?;
        row(
            "highest memory",
            format!("{:.0} MiB", self.memory_max as f64 / MIB),
        )?;
        row(
            "CPU: daemon; simulator; others",
            format!(
                "{:.0}; {:.0} s; {:.1} of {} cores",
                machine.daemon_cpu_seconds,
                machine.simulator_cpu_seconds,
                machine.others_cores,
                machine.cores
            ),
        )?;
        row(
            "store; seed; began; seconds",
            format!(
                "{}; {}; {}; {:.0}",
                machine.store, self.seed, self.began, self.seconds
            ),
        )?;
        if !outcome.first.is_empty() {
            writeln!(f, "\n```text\n{}\n```", outcome.first.join("\n"))?;
        }
        Ok(())
    }
}

fn verdict(report: &Report) -> String {
    let outcome = &report.outcome;
    let mut words = match (outcome.is_right(), &outcome.unfinished) {
        (true, _) => "Nothing is lost.".to_owned(),
        (false, Some(why)) => format!("NOT all became durable: {why}."),
        (false, None) => "NOT as it must be.".to_owned(),
    };
    for limit in report.limits.iter().filter(|limit| !limit.kept) {
        let Limit {
            name,
            limit,
            measured,
            ..
        } = limit;
        let _ = write!(
            words,
            " The limit {name} = {limit} was NOT kept: {measured:.1}."
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567.2), "1,234,567");
        assert_eq!(
            (grouped(999.0), grouped(-1.0)),
            ("999".to_owned(), "0".to_owned())
        );
    }
}
