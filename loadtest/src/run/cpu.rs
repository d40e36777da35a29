//! CPU time: of this process, and of all others.

use std::fs;

use crate::daemon::cpu_seconds;

/// CPU seconds.
#[derive(Clone, Copy)]
pub(super) struct Cpu {
    /// Of all processes,
    pub all: f64,
    /// and of this one.
    pub own: f64,
}

impl Cpu {
    pub fn now() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let fields = stat.lines().next().unwrap_or_default().split_whitespace();
        let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
        // User, nice, system, idle, waiting for a disk, and the rest up to what guests took, which user has too.
        let busy = ticks.iter().enumerate().take(8);
        let busy = busy
            .filter(|(at, _)| !matches!(at, 3 | 4))
            .map(|(_, ticks)| ticks);
        Ok(Self {
            all: busy.sum::<f64>() / 100.0,
            own: cpu_seconds("self")?,
        })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            all: self.all - before.all,
            own: self.own - before.own,
        }
    }
}
