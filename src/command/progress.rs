//! Progress of long work on a terminal, and its summary: on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often progress is shown.
const STEP: Duration = Duration::from_millis(500);

/// Shows how far a command is, if a person may be looking.
pub(super) struct Progress {
    began: Instant,
    /// When it was shown last; `None` where nobody looks.
    shown: Option<Instant>,
    line: bool,
}

impl Progress {
    /// Shown on a terminal, unless results go to one as well.
    pub(super) fn new(prints_results: bool) -> Self {
        let began = Instant::now();
        let looking = io::stderr().is_terminal() && !(prints_results && io::stdout().is_terminal());
        Self {
            began,
            shown: looking.then_some(began),
            line: false,
        }
    }

    /// Shows a text, if the last one was shown a while ago.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if self.shown.is_some_and(|shown| shown.elapsed() >= STEP) {
            self.shown = Some(Instant::now());
            self.line = true;
            // Nothing is lost if nobody reads this, here and below.
            let _ = write!(io::stderr(), "\r\x1b[K{}", text());
        }
    }

    /// Takes the line of progress away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.line) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// Says what was done, wherever standard error goes.
    pub(super) fn say(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "penstock: {text}");
    }

    /// Seconds since the beginning, as people read them.
    pub(super) fn seconds(&self) -> String {
        format!("{:.1} s", self.began.elapsed().as_secs_f64())
    }
}
