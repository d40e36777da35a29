//! Which server it is, as far as the schema and the statements depend on it.

/// ScyllaDB or Cassandra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// ScyllaDB, by its version, as in `2025.1.3`.
    Scylla(String),
    /// Cassandra, by its version, as in `5.0.6`.
    Cassandra(String),
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scylla(version) => write!(f, "ScyllaDB {version}"),
            Self::Cassandra(version) => write!(f, "Cassandra {version}"),
        }
    }
}

impl Server {
    /// Whether it is ScyllaDB.
    pub fn is_scylla(&self) -> bool {
        matches!(self, Self::Scylla(_))
    }

    /// The first two numbers of its version.
    fn version(&self) -> (u32, u32) {
        let (Self::Scylla(version) | Self::Cassandra(version)) = self;
        let mut numbers = version
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Lightweight transactions and change data capture do not work on tablets before 2025.4; versions before 6.0 have
    /// no tablets and don't know the option.
    pub(super) fn needs_tablets_off(&self) -> bool {
        self.is_scylla() && (6, 0) <= self.version() && self.version() < (2025, 4)
    }

    /// The compaction that rewrites the least, as each server does it best.
    pub(super) fn tiered_compaction(&self) -> &'static str {
        match self {
            Self::Scylla(_) if self.version() >= (2025, 1) => {
                "{'class': 'IncrementalCompactionStrategy'}"
            }
            Self::Cassandra(_) if self.version() >= (5, 0) => {
                "{'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}"
            }
            _ => "{'class': 'SizeTieredCompactionStrategy'}",
        }
    }
}
