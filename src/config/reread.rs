//! A configuration that is read again while a daemon runs: what differs, what of it is taken up, what needs a restart.

use super::mistake::Origin;
use super::sections::{Section, keys};
use super::{Config, Http, Loaded, Setting};

/// A key whose value differs from the one in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// The value in effect as TOML; redacted if it is a secret.
    pub before: String,
    /// The value that was read. The same where what a file holds has changed, or the secret.
    pub now: String,
    /// Where that came from.
    pub origin: Origin,
}

/// What differs between the configuration in effect and one that was read later, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What a running daemon takes up.
    pub taken: Vec<Change>,
    /// What needs a restart.
    pub refused: Vec<Change>,
}

impl Loaded {
    /// How a configuration that was read later differs from this one, which is in effect.
    pub fn changes(&self, read: &Loaded) -> Changes {
        let mut changes = Changes::default();
        let differing = self.differing(read);
        let shown = self.settings.iter().zip(&read.settings);
        for (key, (before, now)) in keys().zip(shown) {
            if !differing.contains(&key.name) {
                continue;
            }
            let list = match key.reread {
                true => &mut changes.taken,
                false => &mut changes.refused,
            };
            list.push(Change {
                key: key.name,
                before: before.value.clone(),
                now: now.value.clone(),
                origin: now.origin.clone(),
            });
        }
        changes
    }

    /// This one with the values of those keys that are reread from another.
    pub fn with_reread(&self, read: &Loaded) -> Loaded {
        let settings = keys().zip(self.settings.iter().zip(&read.settings));
        let settings = settings.map(|(key, (own, read))| if key.reread { read } else { own });
        Loaded {
            config: self.config.with_reread(&read.config),
            settings: settings.cloned().collect(),
        }
    }

    /// The names of the keys whose values differ.
    fn differing(&self, other: &Loaded) -> Vec<&'static str> {
        let mut names = self.config.differing(&other.config);
        let Http {
            listen,
            admin_token,
            read_token,
            socket,
        } = &other.config.http;
        let own = &self.config.http;
        let token = |name, file| match self.is_set(file) || other.is_set(file) {
            true => file,
            false => name,
        };
        let http = [
            ("http.listen", own.listen != *listen),
            (
                token("http.admin_token", "http.admin_token_file"),
                own.admin_token != *admin_token,
            ),
            (
                token("http.read_token", "http.read_token_file"),
                own.read_token != *read_token,
            ),
            ("http.socket", own.socket != *socket),
        ];
        let differing = http.into_iter().filter(|(_, differs)| *differs);
        names.extend(differing.map(|(name, _)| name));
        names
    }

    fn is_set(&self, key: &str) -> bool {
        let is_set = |setting: &&Setting| setting.origin != Origin::Default;
        let of_key = self.settings.iter().filter(is_set);
        of_key.map(|setting| setting.key).any(|name| name == key)
    }
}

impl Config {
    /// The names of the keys whose values differ; those of `http` are looked at by themselves.
    fn differing(&self, other: &Self) -> Vec<&'static str> {
        let collections = (self.collections != other.collections).then_some("collections");
        let sections = [
            self.relay.differing(&other.relay),
            self.backfill.differing(&other.backfill),
            self.worker.differing(&other.worker),
            self.pipeline.differing(&other.pipeline),
            self.store.differing(&other.store),
            self.identity.differing(&other.identity),
            self.net.differing(&other.net),
            self.verify.differing(&other.verify),
            self.accounts.differing(&other.accounts),
            self.quarantine.differing(&other.quarantine),
            self.faults.differing(&other.faults),
            self.shutdown.differing(&other.shutdown),
            self.log.differing(&other.log),
        ];
        collections
            .into_iter()
            .chain(sections.into_iter().flatten())
            .collect()
    }

    fn with_reread(&self, read: &Self) -> Self {
        let mut config = self.clone();
        config.collections.clone_from(&read.collections);
        config.backfill.take_up(&read.backfill);
        config.log.take_up(&read.log);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn loaded(set: &[&str]) -> Loaded {
        let sources = Sources {
            set: set.iter().map(|text| (*text).to_owned()).collect(),
            ..Sources::default()
        };
        Config::load(&sources).unwrap()
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key).collect()
    }

    #[test]
    fn what_is_reread_are_the_collections_the_limits_and_the_log() {
        let reread: Vec<_> = keys()
            .filter(|key| key.reread)
            .map(|key| key.name)
            .collect();
        assert_eq!(
            reread,
            [
                "collections",
                "backfill.max_events_per_second",
                "backfill.max_jobs",
                "backfill.max_bytes",
                "backfill.max_repo_bytes",
                "backfill.repo_timeout",
                "backfill.repo_idle",
                "backfill.per_host",
                "backfill.requests_per_second",
                "backfill.attempts",
                "backfill.retry_wait",
                "backfill.repair_pause",
                "backfill.export_above",
                "log.level",
                "log.format",
            ]
        );
    }

    #[test]
    fn each_key_that_differs_is_taken_up_or_refused() {
        let own = loaded(&["log.level=info"]);
        let read = loaded(&[
            "log.level=debug",
            "collections=a.b.c",
            "backfill.max_jobs=3",
            "backfill.days=2",
            "store.embedded.dir=/elsewhere",
        ]);
        let changes = own.changes(&read);
        assert_eq!(
            names(&changes.taken),
            ["collections", "backfill.max_jobs", "log.level"]
        );
        // What is derived from a key differs with it.
        let refused = ["backfill.days", "store.embedded.dir", "http.socket"];
        assert_eq!(names(&changes.refused), refused);
        let level = &changes.taken[2];
        assert_eq!((&*level.before, &*level.now), ("\"info\"", "\"debug\""));
        assert_eq!(level.origin, Origin::Flag("--set"));

        let now = own.with_reread(&read);
        assert_eq!(now.changes(&read).taken, []);
        assert_eq!(names(&now.changes(&read).refused), refused);
        assert_eq!(now.config.backfill.max_jobs, 3);
        assert_eq!(now.config.backfill.days, own.config.backfill.days);
        let dir = |loaded: &Loaded| loaded.config.store.embedded.dir.clone();
        assert_eq!(dir(&now), dir(&own));
        assert_eq!(now.with_reread(&own).changes(&own), Changes::default());
    }

    #[test]
    fn another_spelling_of_a_value_is_no_change() {
        let own = loaded(&["backfill.max_bytes=256MiB", "collections=b.c.d,a.b.c"]);
        let same = loaded(&["backfill.max_bytes=268435456", "collections=a.b.c,b.c.d"]);
        assert_eq!(own.changes(&same), Changes::default());
    }

    #[test]
    fn a_secret_that_changed_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let set = format!("http.admin_token_file={}", file.display());
        std::fs::write(&file, "hunter2\n").unwrap();
        let own = loaded(&[&set, "http.read_token=reader1"]);
        std::fs::write(&file, "hunter3\n").unwrap();
        let read = loaded(&[&set, "http.read_token=reader2"]);
        let changes = own.changes(&read);
        assert_eq!(
            names(&changes.refused),
            ["http.admin_token_file", "http.read_token"]
        );
        let shown = format!("{changes:?}");
        assert!(
            !shown.contains("hunter") && !shown.contains("reader"),
            "{shown}"
        );
        assert!(shown.contains("[redacted]"), "{shown}");
    }

    #[test]
    fn every_key_that_can_differ_is_compared() {
        let own = loaded(&[]);
        let others = [
            ("relay.urls", "elsewhere.example"),
            ("worker.count", "2"),
            ("pipeline.batch_ops", "7"),
            ("store.json", "true"),
            ("store.scylla.nodes", "db1"),
            ("http.listen", "127.0.0.1:9"),
            ("identity.cache_entries", "7000"),
            ("net.allow_private", "true"),
            ("verify.signatures", "false"),
            ("accounts.on_takedown", "purge"),
            ("quarantine.max_bytes", "1MiB"),
            ("faults.window", "70"),
            ("shutdown.timeout", "7s"),
        ];
        let set: Vec<String> = others.map(|(key, value)| format!("{key}={value}")).into();
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let refused = own.changes(&loaded(&set)).refused;
        assert_eq!(names(&refused), others.map(|(key, _)| key));
    }
}
