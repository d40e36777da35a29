//! The schema: what is created, and what a keyspace that is there must look like.
//!
//! One table of tables drives the CQL that `penstock schema` prints, what is created, and what is checked at start.
//! Nothing that exists is ever altered; tables that came with a later version are added. Any other difference is explained,
//! and the operator decides.

use crate::config::Replication;

pub(super) mod check;
pub(super) mod create;

use super::server::Server;

/// The version of this schema, kept in `schema_version`. A keyspace of an earlier one lacks the tables that came since.
pub const VERSION: i32 = 2;

/// Longest age at which a frame is replayed or retried: tombstones must live longer, or an old create would bring back what
/// was deleted since.
pub const LONGEST_REPLAY_SECONDS: i64 = crate::store::LONGEST_REPLAY.as_secs().cast_signed();

/// Seconds for which tombstones are kept: the longest replay, and three days to repair the cluster in.
const GC_GRACE_SECONDS: u32 = 10 * 24 * 3600;

/// A user-defined type.
#[derive(Debug)]
pub struct Type {
    /// Its name.
    pub name: &'static str,
    /// Why it is.
    pub doc: &'static [&'static str],
    /// Its fields in their order: name, CQL type.
    pub fields: &'static [(&'static str, &'static str)],
}

/// What part of the key a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Of the partition key.
    Partition,
    /// Of the clustering key, ascending.
    Ascending,
    /// Of the clustering key, descending.
    Descending,
    /// None.
    Value,
}

/// What a table is written like, which decides on its compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// Many rows of many partitions, each written once or twice, read rarely: merging as little as can be.
    Stream,
    /// Small, or rewritten often: the server's default.
    Small,
}

/// A table.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What it holds and why it looks so.
    pub doc: &'static [&'static str],
    /// Its columns, the key's first: name, CQL type, part of the key.
    pub columns: &'static [(&'static str, &'static str, Part)],
    pattern: Pattern,
    /// Whether `store.scylla.cdc` covers it.
    cdc: bool,
    /// The version of the schema that it came with.
    since: i32,
}

use Part::{Ascending, Descending, Partition, Value};

/// Every type.
pub const TYPES: &[Type] = &[
    Type {
        name: "record_value",
        doc: &[
            "All that a record is, as one cell: two commits of the same microsecond can't mix, and of two the greater rev wins.",
            "record is DAG-CBOR as received; json is there with store.json only.",
        ],
        fields: &[
            ("rev", "text"),
            ("cid", "blob"),
            ("record", "blob"),
            ("json", "text"),
        ],
    },
    Type {
        name: "repo_head",
        doc: &[
            "The newest commit seen of a repository: its revision, the root of its tree, its CID.",
        ],
        fields: &[("rev", "text"), ("data", "blob"), ("commit", "blob")],
    },
    Type {
        name: "repo_snapshot",
        doc: &[
            "The last full snapshot: the version that its records were written at (microseconds), its revision, and the",
            "collections that were wanted then (none: all).",
        ],
        fields: &[("version", "bigint"), ("rev", "text"), ("filter", "text")],
    },
];

/// Every table.
pub const TABLES: &[Table] = &[
    Table {
        name: "records",
        doc: &[
            "Every record. A repository is a partition: one read, one range delete. WRITETIME(value) is the version:",
            "the microseconds in the rev of the commit that wrote it.",
            "Written once per record mostly, all over the key space, and deleted now and then: tiered merging writes least.",
        ],
        columns: &[
            ("did", "text", Partition),
            ("collection", "text", Ascending),
            ("rkey", "text", Ascending),
            ("value", "frozen<record_value>", Value),
        ],
        pattern: Pattern::Stream,
        cdc: true,
        since: 1,
    },
    Table {
        name: "records_by_collection",
        doc: &[
            "What is new in a collection. month is YYYYMM of the record key's TID, 0 where it is none; slot spreads a busy",
            "collection over 256 partitions a month. Rows are hints: confirm each in records, and the account in repos.",
        ],
        columns: &[
            ("collection", "text", Partition),
            ("month", "int", Partition),
            ("slot", "int", Partition),
            ("rkey", "text", Descending),
            ("did", "text", Ascending),
            ("rev", "text", Value),
            ("cid", "blob", Value),
        ],
        pattern: Pattern::Stream,
        cdc: false,
        since: 1,
    },
    Table {
        name: "collection_months",
        doc: &["The months of records_by_collection that have rows."],
        columns: &[
            ("collection", "text", Partition),
            ("month", "int", Descending),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
    Table {
        name: "repos",
        doc: &[
            "Every repository. Each column has a version of its own (WRITETIME): of status (active, why not) and handle the",
            "time of the event, of head the microseconds of its rev. floors: by collection ('' for all of it) the version at",
            "or below which nothing comes back but by a snapshot.",
        ],
        columns: &[
            ("did", "text", Partition),
            ("handle", "text", Value),
            ("pds", "text", Value),
            ("status", "frozen<tuple<boolean, text>>", Value),
            ("head", "frozen<repo_head>", Value),
            ("complete", "frozen<repo_snapshot>", Value),
            ("floors", "map<text, bigint>", Value),
        ],
        pattern: Pattern::Stream,
        cdc: true,
        since: 1,
    },
    Table {
        name: "ledger",
        doc: &[
            "Which intervals (from_seq, to_seq] of a relay's stream are held for which slots (a set of 256 bits).",
        ],
        columns: &[
            ("relay", "text", Partition),
            ("generation", "int", Partition),
            ("run", "bigint", Ascending),
            ("from_seq", "bigint", Ascending),
            ("to_seq", "bigint", Value),
            ("from_time", "bigint", Value),
            ("to_time", "bigint", Value),
            ("slots", "blob", Value),
            ("filter", "text", Value),
            ("kind", "text", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
    Table {
        name: "repairs",
        doc: &["Questions about repositories that wait for an answer of their hosts."],
        columns: &[
            ("slot", "int", Partition),
            ("did", "text", Ascending),
            ("id", "text", Ascending),
            ("kind", "text", Value),
            ("reason", "text", Value),
            ("version", "bigint", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
    Table {
        name: "jobs",
        doc: &[
            "Backfills that were asked for: body is JSON. Changed by lightweight transactions on epoch alone. They are few, and",
            "listed the newest first: that is the order of one partition (part is 0), and no order of partitions by id.",
        ],
        columns: &[
            ("part", "int", Partition),
            ("id", "bigint", Descending),
            ("epoch", "bigint", Value),
            ("body", "blob", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 2,
    },
    Table {
        name: "job_failures",
        doc: &[
            "What could not be done of a job (id), and why: body is JSON. collection is '' where a whole repository failed.",
        ],
        columns: &[
            ("id", "bigint", Partition),
            ("did", "text", Ascending),
            ("collection", "text", Ascending),
            ("body", "blob", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 2,
    },
    Table {
        name: "choices",
        doc: &[
            "What operators chose while the daemon ran: collections, repositories that jobs skip. body is JSON.",
        ],
        columns: &[
            ("kind", "text", Partition),
            ("name", "text", Ascending),
            ("body", "blob", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 2,
    },
    Table {
        name: "quarantine",
        doc: &["Frames that could not be taken in. day is YYYYMMDD (UTC) of receipt."],
        columns: &[
            ("day", "int", Partition),
            ("slot", "int", Partition),
            ("id", "text", Ascending),
            ("received", "bigint", Value),
            ("reason", "text", Value),
            ("detail", "text", Value),
            ("source", "text", Value),
            ("seq", "bigint", Value),
            ("did", "text", Value),
            ("size", "bigint", Value),
            ("evicted", "boolean", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
    Table {
        name: "quarantine_raw",
        doc: &[
            "Their bytes, in pieces: a frame can be larger than what a server takes in one write.",
        ],
        columns: &[
            ("id", "text", Partition),
            ("part", "int", Ascending),
            ("bytes", "blob", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
    Table {
        name: "workers",
        doc: &[
            "Leases: who is which worker, of how many. Lightweight transactions with a time to live.",
        ],
        columns: &[
            ("worker_id", "int", Partition),
            ("worker_count", "int", Value),
            ("holder", "text", Value),
            ("session", "text", Value),
            ("since", "timestamp", Value),
        ],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
    Table {
        name: "schema_version",
        doc: &["Which schema this keyspace has."],
        columns: &[("name", "text", Partition), ("version", "int", Value)],
        pattern: Pattern::Small,
        cdc: false,
        since: 1,
    },
];

/// What the schema depends on.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The keyspace.
    pub keyspace: String,
    /// Copies of each row.
    pub replication: Replication,
    /// Whether changes are captured, on ScyllaDB.
    pub cdc: bool,
    /// Whose CQL it is.
    pub server: Server,
}

impl Layout {
    /// The statement that makes the keyspace.
    pub fn keyspace(&self) -> String {
        let copies = match &self.replication {
            Replication::Everywhere(copies) => format!("'replication_factor': {copies}"),
            Replication::Datacenters(datacenters) => {
                let each = datacenters.iter();
                let each = each.map(|(name, copies)| format!("'{name}': {copies}"));
                each.collect::<Vec<_>>().join(", ")
            }
        };
        let tablets = match self.server.needs_tablets_off() {
            true => " AND tablets = {'enabled': false}",
            false => "",
        };
        format!(
            "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', {copies}}}{tablets}",
            self.keyspace
        )
    }

    /// The statements that make all that is in it, in their order, without semicolons.
    pub fn statements(&self) -> Vec<String> {
        let types = TYPES.iter().map(|each| self.create_type(each));
        let tables = TABLES.iter().map(|each| self.create_table(each));
        types.chain(tables).collect()
    }

    /// All of it as a script, with the reasons as comments.
    pub fn script(&self) -> String {
        let mut script = format!("{};\n", self.keyspace());
        let docs = TYPES.iter().map(|each| each.doc);
        let docs = docs.chain(TABLES.iter().map(|each| each.doc));
        for (doc, statement) in docs.zip(self.statements()) {
            script.push('\n');
            for line in doc {
                script.push_str("-- ");
                script.push_str(line);
                script.push('\n');
            }
            script.push_str(&statement);
            script.push_str(";\n");
        }
        script
    }

    fn create_type(&self, each: &Type) -> String {
        let fields = each.fields.iter();
        let fields: Vec<String> = fields.map(|(name, of)| format!("{name} {of}")).collect();
        format!(
            "CREATE TYPE IF NOT EXISTS {}.{} ({})",
            self.keyspace,
            each.name,
            fields.join(", ")
        )
    }

    fn create_table(&self, table: &Table) -> String {
        let columns = table.columns.iter();
        let columns: Vec<String> = columns
            .map(|(name, of, _)| format!("    {name} {of},\n"))
            .collect();
        let of = |wanted: &[Part]| {
            let columns = table.columns.iter();
            let columns = columns.filter(|(_, _, part)| wanted.contains(part));
            columns.map(|(name, ..)| *name).collect::<Vec<_>>()
        };
        let clustering = of(&[Ascending, Descending]);
        let key = std::iter::once(format!("({})", of(&[Partition]).join(", ")));
        let key: Vec<String> = key
            .chain(clustering.iter().map(|name| (*name).to_owned()))
            .collect();
        let descends = table.columns.iter().any(|(_, _, part)| *part == Descending);
        let order = match descends {
            true => {
                let order = table
                    .columns
                    .iter()
                    .filter_map(|(name, _, part)| match part {
                        Ascending => Some(format!("{name} ASC")),
                        Descending => Some(format!("{name} DESC")),
                        Partition | Value => None,
                    });
                let order: Vec<String> = order.collect();
                format!("CLUSTERING ORDER BY ({})\n    AND ", order.join(", "))
            }
            false => String::new(),
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {}.{} (\n{}    PRIMARY KEY ({})\n) WITH {order}{}",
            self.keyspace,
            table.name,
            columns.concat(),
            key.join(", "),
            self.options(table).join("\n    AND ")
        )
    }

    fn options(&self, table: &Table) -> Vec<String> {
        let mut options = vec![format!("gc_grace_seconds = {GC_GRACE_SECONDS}")];
        if table.pattern == Pattern::Stream {
            options.push(format!("compaction = {}", self.server.tiered_compaction()));
            // Records are text, identifiers and hashes; a chunk holds a few dozen of them.
            options.push(
                "compression = {'class': 'ZstdCompressor', 'chunk_length_in_kb': 16}".to_owned(),
            );
        }
        if self.server.is_scylla() {
            // The default of recent versions may drop tombstones at once, and a replayed create would come back.
            options.push("tombstone_gc = {'mode': 'timeout'}".to_owned());
            if table.cdc && self.cdc {
                options.push("cdc = {'enabled': true}".to_owned());
            }
        }
        options
    }
}
