//! How a run is stopped before its end.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;
/// Signals that are no further apart are one: `timeout` sends each twice, to a process and to its group.
const ONE: Duration = Duration::from_millis(500);

/// Whether a run is to stop, and by which signal.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// At SIGHUP (the terminal is gone), SIGINT (Ctrl-C) or SIGTERM. The second of them ends this process at once.
    ///
    /// # Errors
    /// If signals can't be listened to.
    pub fn at_signals() -> io::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let within = runtime.enter();
        let signals = Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        drop(within);
        let listener = stop.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listener.listen(signals)))?;
        Ok(stop)
    }

    async fn listen(self, mut signals: Signals) {
        self.0.store(signals.next().await, Ordering::Relaxed);
        let first = Instant::now();
        loop {
            let stopped = Stopped(signals.next().await);
            if first.elapsed() > ONE {
                std::process::exit(stopped.exit_code().into());
            }
        }
    }

    /// Fails once it is to stop.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Stopped(signal)),
        }
    }

    /// Reads no further once it is to stop.
    pub(super) fn reader<R: Read>(&self, from: R) -> Reader<'_, R> {
        Reader { stop: self, from }
    }
}

/// Those that stop a run.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => SIGHUP,
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }
}

/// The number of the signal by which a run was stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stopped by {}", self.name())]
pub(super) struct Stopped(u8);

impl Stopped {
    fn name(self) -> &'static str {
        match self.0 {
            SIGHUP => "SIGHUP",
            SIGINT => "SIGINT",
            _ => "SIGTERM",
        }
    }

    /// As shells have it.
    pub fn exit_code(self) -> u8 {
        128 + self.0
    }
}

impl From<Stopped> for io::Error {
    fn from(stopped: Stopped) -> Self {
        Self::other(stopped)
    }
}

/// What [`Stop::reader`] gives.
pub(super) struct Reader<'a, R> {
    stop: &'a Stop,
    from: R,
}

impl<R: Read> Read for Reader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.from.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_until_it_is_to_stop() {
        let stop = Stop::default();
        let mut reader = stop.reader(&b"some"[..]);
        reader.read_exact(&mut [0; 2]).unwrap();
        stop.0.store(SIGTERM, Ordering::Relaxed);
        let error = reader.read(&mut [0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "stopped by SIGTERM");
        assert_eq!(stop.check().unwrap_err().exit_code(), 143);
    }
}
