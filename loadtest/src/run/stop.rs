//! How a run is stopped before its end.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether a run is to stop, and by which signal.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// At SIGINT (Ctrl-C) or SIGTERM. The second of them ends this process at once.
    ///
    /// # Errors
    /// If signals can't be listened to.
    pub fn at_signals() -> io::Result<Self> {
        let (stop, before) = (Self::default(), Arc::new(AtomicBool::new(false)));
        for signal in [SIGINT, SIGTERM] {
            // They happen in this order: at the first signal none was before.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&before))?;
            flag::register(signal, Arc::clone(&before))?;
            flag::register_usize(signal, Arc::clone(&stop.0), signal.unsigned_abs() as usize)?;
        }
        Ok(stop)
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

/// The number of the signal by which a run was stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stopped by {}", if *.0 == SIGINT.unsigned_abs() as usize { "SIGINT" } else { "SIGTERM" })]
pub(super) struct Stopped(usize);

impl Stopped {
    /// As shells have it.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(u8::MAX)
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
        stop.0.store(15, Ordering::Relaxed);
        let error = reader.read(&mut [0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "stopped by SIGTERM");
        assert_eq!(stop.check().unwrap_err().exit_code(), 143);
    }
}
