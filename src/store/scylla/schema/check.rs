//! What a keyspace has, and how that differs from what it must have.

use std::collections::BTreeMap;

use super::{LONGEST_REPLAY_SECONDS, Layout, Part, TABLES, TYPES, VERSION};

/// What the server says of a keyspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Found {
    /// By type, its fields.
    pub types: BTreeMap<String, Vec<(String, String)>>,
    /// By table and column: the CQL type, the kind of part, its position in it, its order.
    pub columns: BTreeMap<(String, String), Column>,
    /// By table: `gc_grace_seconds`.
    pub gc_grace: BTreeMap<String, i64>,
    /// By table, on ScyllaDB: the mode of `tombstone_gc`, where it was set.
    pub tombstone_gc: BTreeMap<String, String>,
    /// What `schema_version` says.
    pub version: Option<i32>,
}

/// A column as `system_schema.columns` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Column {
    pub of: String,
    pub kind: String,
    pub position: i32,
    pub order: String,
}

impl Found {
    /// What is not there at all and can be made: an interrupted creation.
    pub fn missing(&self) -> Vec<&'static str> {
        let types = TYPES.iter().map(|each| each.name);
        let types = types.filter(|name| !self.types.contains_key(*name));
        let tables = TABLES.iter().map(|table| table.name);
        let there = |name: &str| self.columns.keys().any(|(table, _)| table == name);
        types.chain(tables.filter(|name| !there(name))).collect()
    }

    /// Whether all of this build was made.
    pub fn is_whole(&self) -> bool {
        self.version == Some(VERSION) && self.missing().is_empty()
    }

    /// Every difference between what is there and what must be, in words; what is missing whole is not among them.
    pub fn differences(&self, layout: &Layout) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(version) = self
            .version
            .filter(|version| !(1..=VERSION).contains(version))
        {
            said.push(format!(
                "schema_version says {version}, this build knows {VERSION}: use the build that made it, or move the data \
                 (penstock dump --full, penstock import)"
            ));
        }
        let gone = self
            .missing()
            .into_iter()
            .filter(|name| self.was_made(name));
        said.extend(gone.map(|name| self.gone(name, layout)));
        self.types_differ(&mut said);
        for table in TABLES {
            self.columns_differ(table, &mut said);
            self.tombstones_go_early(table.name, layout, &mut said);
        }
        said
    }

    /// Whether something was there once: the version is written last.
    fn was_made(&self, name: &str) -> bool {
        let table = TABLES.iter().find(|table| table.name == name);
        let since = table.map_or(1, |table| table.since);
        self.version.is_some_and(|version| since <= version)
    }

    fn gone(&self, name: &str, layout: &Layout) -> String {
        format!(
            "{name} is gone, though schema_version says that all was made: with it went what the ledger claims; restore it from a \
             backup, or DROP KEYSPACE {} to begin anew",
            layout.keyspace
        )
    }

    fn types_differ(&self, said: &mut Vec<String>) {
        for each in TYPES {
            let Some(found) = self.types.get(each.name) else {
                continue;
            };
            let wanted = each.fields.iter();
            let wanted: Vec<_> = wanted
                .map(|(name, of)| ((*name).to_owned(), (*of).to_owned()))
                .collect();
            if *found != wanted {
                said.push(format!(
                    "type {} has the fields {found:?}, not {wanted:?}",
                    each.name
                ));
            }
        }
    }

    fn columns_differ(&self, table: &super::Table, said: &mut Vec<String>) {
        let there = |(name, _): &&(String, String)| name == table.name;
        if !self.columns.keys().any(|key| there(&key)) {
            return;
        }
        let mut positions = [0, 0];
        for (name, of, part) in table.columns {
            let wanted = column(of, *part, &mut positions);
            match self
                .columns
                .get(&(table.name.to_owned(), (*name).to_owned()))
            {
                None => said.push(format!("table {} has no column {name} {of}", table.name)),
                Some(found) if *found != wanted => said.push(format!(
                    "column {}.{name} is {} ({} {}), not {of} ({} {})",
                    table.name, found.of, found.kind, found.order, wanted.kind, wanted.order
                )),
                Some(_) => {}
            }
        }
    }

    fn tombstones_go_early(&self, table: &str, layout: &Layout, said: &mut Vec<String>) {
        let seconds = self.gc_grace.get(table);
        if let Some(seconds) = seconds.filter(|seconds| **seconds < LONGEST_REPLAY_SECONDS) {
            said.push(format!(
                "table {table} has gc_grace_seconds = {seconds}, shorter than the longest replay ({LONGEST_REPLAY_SECONDS} s): \
                 a replayed create would bring back what was deleted; ALTER TABLE {}.{table} WITH gc_grace_seconds = 864000",
                layout.keyspace
            ));
        }
        let mode = self.tombstone_gc.get(table);
        if let Some(mode) = mode.filter(|mode| *mode != "timeout" && layout.server.is_scylla()) {
            said.push(format!(
                "table {table} drops tombstones by the mode '{mode}', which may be at once: ALTER TABLE {}.{table} WITH \
                 tombstone_gc = {{'mode': 'timeout'}}",
                layout.keyspace
            ));
        }
    }
}

fn column(of: &str, part: Part, positions: &mut [i32; 2]) -> Column {
    let [partition, clustering] = positions;
    let (kind, position, order) = match part {
        Part::Partition => ("partition_key", next(partition), "none"),
        Part::Ascending => ("clustering", next(clustering), "asc"),
        Part::Descending => ("clustering", next(clustering), "desc"),
        Part::Value => ("regular", -1, "none"),
    };
    Column {
        of: of.to_owned(),
        kind: kind.to_owned(),
        position,
        order: order.to_owned(),
    }
}

fn next(position: &mut i32) -> i32 {
    *position += 1;
    *position - 1
}

#[cfg(test)]
mod tests {
    use super::super::super::Server;
    use super::*;
    use crate::config::Replication;

    fn layout(server: Server) -> Layout {
        Layout {
            keyspace: "k".into(),
            replication: Replication::Everywhere(3),
            cdc: false,
            server,
        }
    }

    fn whole(mode: &str) -> Found {
        let mut found = Found {
            version: Some(VERSION),
            ..Found::default()
        };
        for each in TYPES {
            let fields = each.fields.iter();
            let fields = fields.map(|(name, of)| ((*name).into(), (*of).into()));
            found.types.insert(each.name.into(), fields.collect());
        }
        for table in TABLES {
            let mut positions = [0, 0];
            for (name, of, part) in table.columns {
                let key = (table.name.into(), (*name).into());
                found.columns.insert(key, column(of, *part, &mut positions));
            }
            found.gc_grace.insert(table.name.into(), 864_000);
            found.tombstone_gc.insert(table.name.into(), mode.into());
        }
        found
    }

    #[test]
    fn what_this_build_makes_has_no_differences() {
        let cassandra = layout(Server::Cassandra("5.0.9".into()));
        assert_eq!(whole("").differences(&cassandra), Vec::<String>::new());
        let scylla = layout(Server::Scylla("2025.1.0".into()));
        assert_eq!(whole("timeout").differences(&scylla), Vec::<String>::new());
        assert_eq!(Found::default().missing().len(), TYPES.len() + TABLES.len());
    }

    #[test]
    fn what_came_with_a_later_version_is_missing_and_all_else_is_gone() {
        let server = layout(Server::Cassandra("5.0.9".into()));
        let mut found = whole("");
        let new = ["jobs", "job_failures", "choices"];
        found
            .columns
            .retain(|(table, _), _| !new.contains(&table.as_str()));
        assert_eq!(found.missing(), new);
        assert_eq!(found.differences(&server).len(), 3, "it says version 2");
        found.version = Some(1);
        assert_eq!(found.differences(&server), Vec::<String>::new());
        found.columns.retain(|(table, _), _| table != "ledger");
        let said = found.differences(&server);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("ledger is gone"), "{said:?}");
    }

    #[test]
    fn every_difference_is_explained() {
        let scylla = layout(Server::Scylla("2025.1.0".into()));
        let mut found = whole("timeout");
        found.version = Some(VERSION + 1);
        found.gc_grace.insert("records".into(), 3600);
        found.tombstone_gc.insert("repos".into(), "repair".into());
        found.columns.remove(&("ledger".into(), "kind".into()));
        if let Some(fields) = found.types.get_mut("repo_head") {
            fields.pop();
        }
        let did = ("records".into(), "did".into());
        found.columns.get_mut(&did).unwrap().of = "blob".into();
        let said = found.differences(&scylla).join("\n");
        for word in [
            "schema_version says 3",
            "records has gc_grace_seconds = 3600",
            "repos drops tombstones by the mode 'repair'",
            "ledger has no column kind",
            "type repo_head has the fields",
            "column records.did is blob",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(said.lines().count(), 6, "{said}");
    }
}
