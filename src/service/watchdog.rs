//! Whether the pipeline works: the service manager hears so only while it does.

/// Parts of the pipeline that are looked at.
const STAGES: usize = 3;

/// Where each part of the pipeline is at one moment: a number that changes whenever the part gets something done; `None` where it
/// has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// The lanes: how much they took in and stored, while anything waits for them or for the store.
    pub lanes: Option<u64>,
    /// The live stream: its oldest chunk that is not durable.
    pub stream: Option<u64>,
    /// The ledger: the round of saving that is under way.
    pub ledger: Option<u64>,
}

impl Stages {
    fn each(self) -> [Option<u64>; STAGES] {
        [self.lanes, self.stream, self.ledger]
    }
}

/// Judges from one look at the pipeline to the next whether it works.
#[derive(Debug, Default)]
pub struct Watchdog {
    before: Option<Stages>,
}

impl Watchdog {
    /// Whether every part that had something to do at the last look and has still got some done since. With a reason to wait
    /// (ingestion pauses, or the store says that it is down) nothing has to move.
    pub fn works(&mut self, now: Stages, has_reason_to_wait: bool) -> bool {
        let before = self.before.replace(now);
        let Some(before) = before.filter(|_| !has_reason_to_wait) else {
            return true;
        };
        let mut parts = before.each().into_iter().zip(now.each());
        !parts.any(|(before, now)| now.is_some() && now == before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Stages = Stages {
        lanes: None,
        stream: None,
        ledger: None,
    };

    fn lanes(at: u64) -> Stages {
        Stages {
            lanes: Some(at),
            ..IDLE
        }
    }

    /// What each of these looks says, without a reason to wait.
    fn looks(stages: &[Stages]) -> Vec<bool> {
        let mut watchdog = Watchdog::default();
        let look = |now: &Stages| watchdog.works(*now, false);
        stages.iter().map(look).collect()
    }

    #[test]
    fn what_moves_works() {
        assert_eq!(looks(&[lanes(1), lanes(2), lanes(3)]), [true; 3]);
    }

    #[test]
    fn what_has_nothing_to_do_works() {
        assert_eq!(looks(&[IDLE, IDLE, lanes(1), IDLE, IDLE]), [true; 5]);
    }

    #[test]
    fn what_came_after_the_last_look_is_not_late_yet() {
        assert_eq!(looks(&[IDLE, lanes(7), lanes(7)]), [true, true, false]);
    }

    #[test]
    fn it_hangs_until_it_moves() {
        let seen = looks(&[lanes(1), lanes(1), lanes(1), lanes(2), lanes(2)]);
        assert_eq!(seen, [true, false, false, true, false]);
    }

    #[test]
    fn one_part_that_hangs_is_enough() {
        for hanging in [
            lanes(1),
            Stages {
                stream: Some(0),
                ..IDLE
            },
            Stages {
                ledger: Some(4),
                ..IDLE
            },
        ] {
            assert_eq!(looks(&[hanging, hanging]), [true, false], "{hanging:?}");
            let others = |at: u64| Stages {
                lanes: hanging.lanes.or(Some(at)),
                stream: hanging.stream.or(Some(at)),
                ledger: hanging.ledger.or(Some(at)),
            };
            assert_eq!(looks(&[others(8), others(9)]), [true, false]);
        }
    }

    #[test]
    fn with_a_reason_to_wait_nothing_has_to_move() {
        let mut watchdog = Watchdog::default();
        for (reason, works) in [
            (false, true),
            (true, true),
            (true, true),
            // The reason is gone, and still nothing moves.
            (false, false),
        ] {
            assert_eq!(watchdog.works(lanes(1), reason), works, "{reason}");
        }
    }
}
