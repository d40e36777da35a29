//! The service manager (systemd): it hears whether the worker is ready, how it goes, that it works, and that it stops.
//!
//! What is said is for who started this process. Where nobody listens (no `NOTIFY_SOCKET`), nothing is.

pub mod watchdog;

pub use watchdog::Watchdog;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::telemetry::repeated;

/// Tells the manager some states at once.
type Tell = dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + Send + Sync;

/// What manages this process as a service.
#[derive(Clone)]
pub struct Service {
    tell: Option<Arc<Tell>>,
    watchdog: Option<Duration>,
}

impl Service {
    /// The one that started this process, as its environment says.
    pub fn of_process() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(_) => {
                let watchdog = sd_notify::watchdog_enabled();
                Self::hearing(sd_notify::notify, watchdog.filter(|time| !time.is_zero()))
            }
            None => Self::none(),
        }
    }

    /// Nobody listens.
    pub fn none() -> Self {
        Self {
            tell: None,
            watchdog: None,
        }
    }

    /// One that hears by `tell`, and ends a process that it does not hear to be [alive](Service::alive) for `watchdog`.
    pub fn hearing(
        tell: impl Fn(&[NotifyState<'_>]) -> io::Result<()> + Send + Sync + 'static,
        watchdog: Option<Duration>,
    ) -> Self {
        Self {
            tell: Some(Arc::new(tell)),
            watchdog,
        }
    }

    /// Whether anybody listens.
    pub fn listens(&self) -> bool {
        self.tell.is_some()
    }

    /// How long it waits for a sign of life, if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The worker is ready: what was to be started after it may be.
    pub fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// How it goes, in one line for people.
    pub fn status(&self, words: &str) {
        self.say(&[NotifyState::Status(words)]);
    }

    /// The pipeline works.
    pub fn alive(&self) {
        self.say(&[NotifyState::Watchdog]);
    }

    /// The worker stops.
    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        let Some(tell) = &self.tell else { return };
        if let Err(error) = tell(states)
            && let Some(held_back) = repeated("service", "notify")
        {
            tracing::warn!(%error, held_back, "the service manager can't be told how it goes");
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("listens", &self.listens())
            .field("watchdog", &self.watchdog)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn it_hears_what_is_said_in_the_words_of_the_protocol() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let tell = {
            let heard = heard.clone();
            move |states: &[NotifyState<'_>]| {
                heard
                    .lock()
                    .unwrap()
                    .extend(states.iter().map(ToString::to_string));
                Ok(())
            }
        };
        let service = Service::hearing(tell, None);
        service.ready();
        service.status("live");
        service.alive();
        service.stopping();
        assert_eq!(
            *heard.lock().unwrap(),
            [
                "READY=1",
                "STATUS=live",
                "WATCHDOG=1",
                "STOPPING=1",
                "STATUS=stopping"
            ]
        );
    }

    #[test]
    fn a_manager_that_is_gone_does_no_harm() {
        let gone = |_: &[NotifyState<'_>]| Err(io::ErrorKind::ConnectionRefused.into());
        Service::hearing(gone, None).alive();
        Service::none().ready();
        assert!(!Service::none().listens());
    }
}
