//! Progress bars on a terminal, below the log lines.

use std::io::{self, Write};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Draws on standard error; draws nothing where that is no terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// So many parts has a bar.
const PARTS: u64 = 10_000;
const TEMPLATE: &str = "{prefix} [{wide_bar}] {msg}";

/// A bar of something that goes on for long; gone when it is dropped.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// An empty one, with a name before it.
    pub fn new(name: &'static str) -> Self {
        let bar = BARS.add(ProgressBar::new(PARTS).with_prefix(name));
        // One that does not parse would only look worse.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    /// Shows what part is done, between 0 and 1, with some words behind the bar.
    pub fn show(&self, share: f64, words: String) {
        self.0.set_message(words);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of the parts"
        )]
        self.0
            .set_position((share.clamp(0.0, 1.0) * PARTS as f64) as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        BARS.remove(&self.0);
    }
}

/// Standard error, above the bars.
pub(super) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_parses() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
