//! How a run goes, on a terminal.

use std::io::IsTerminal as _;

use super::report::Sample;

/// One line that is written again and again, where somebody looks.
pub(super) struct Progress<'a> {
    name: &'a str,
    terminal: bool,
}

impl<'a> Progress<'a> {
    pub fn new(name: &'a str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { name, terminal }
    }

    pub fn tell(&self, words: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{}: {words}", self.name);
        }
    }

    pub fn sample(&self, phase: &str, sample: &Sample) {
        self.tell(&format!(
            "{:.0} s, {phase}: {} published, {} durable, {:.1} s behind, {} MiB",
            sample.at,
            sample.published,
            sample.durable,
            sample.lag,
            sample.memory >> 20
        ));
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
