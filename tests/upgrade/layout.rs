//! CQL of a schema, read as far as it matters to those who have tables of it.

use std::collections::BTreeMap;

/// By name of the table or type (without the keyspace): its columns or fields, its key, its order.
pub type Layout = BTreeMap<String, Vec<String>>;

/// Reads what `penstock schema` prints.
pub fn read(script: &str) -> Layout {
    let lines = script.lines().filter(|line| !line.starts_with("--"));
    let script: Vec<&str> = lines.collect();
    let script = script.join("\n");
    let statements = script.split(";\n").map(str::trim);
    statements.filter_map(statement).collect()
}

fn statement(text: &str) -> Option<(String, Vec<String>)> {
    let made = text
        .strip_prefix("CREATE TABLE IF NOT EXISTS ")
        .or_else(|| text.strip_prefix("CREATE TYPE IF NOT EXISTS "))?;
    let (name, body) = made.split_once(" (").unwrap();
    let name = name.split_once('.').map_or(name, |(_, name)| name);
    let (body, options) = body.split_once("\n) WITH ").unwrap_or((body, ""));
    let mut parts: Vec<String> = match options {
        // A type, in one line.
        "" => body
            .trim_end_matches(')')
            .split(", ")
            .map(str::to_owned)
            .collect(),
        _ => body
            .lines()
            .map(|line| line.trim().trim_end_matches(',').to_owned())
            .collect(),
    };
    parts.retain(|part| !part.is_empty());
    let order = options.lines().map(str::trim);
    parts.extend(
        order
            .filter(|line| line.starts_with("CLUSTERING"))
            .map(str::to_owned),
    );
    Some((name.to_owned(), parts))
}

/// What whoever has the one lacks of the other, or has otherwise: all of it must still be there, as it was.
pub fn lost(kept: &Layout, now: &Layout) -> Vec<String> {
    let mut lost = Vec::new();
    for (name, parts) in kept {
        match now.get(name) {
            None => lost.push(format!("{name} is gone")),
            Some(now) if now != parts => lost.push(format!("{name} was {parts:?}, is {now:?}")),
            Some(_) => {}
        }
    }
    lost
}

#[test]
fn whatever_a_table_loses_is_found() {
    let script = "-- For a test\n\
        CREATE KEYSPACE IF NOT EXISTS k WITH replication = {};\n\n\
        -- A type.\nCREATE TYPE IF NOT EXISTS k.t (a text, b blob);\n\n\
        CREATE TABLE IF NOT EXISTS k.one (\n    a text,\n    b frozen<map<text, int>>,\n    PRIMARY KEY ((a), b)\n) WITH CLUSTERING ORDER BY (b DESC)\n    AND gc_grace_seconds = 1;\n\n\
        CREATE TABLE IF NOT EXISTS k.two (\n    a text,\n    PRIMARY KEY ((a))\n) WITH gc_grace_seconds = 1;\n";
    let kept = read(script);
    assert_eq!(kept["t"], ["a text", "b blob"]);
    assert_eq!(
        kept["one"],
        [
            "a text",
            "b frozen<map<text, int>>",
            "PRIMARY KEY ((a), b)",
            "CLUSTERING ORDER BY (b DESC)"
        ]
    );
    assert_eq!(kept.len(), 3);
    for (from, to) in [
        ("a text, b blob", "a text"),
        ("    a text,\n    b frozen", "    a int,\n    b frozen"),
        ("    b frozen<map<text, int>>,\n", ""),
        ("PRIMARY KEY ((a), b)", "PRIMARY KEY ((a, b))"),
        ("b DESC", "b ASC"),
        ("k.two", "k.three"),
        // Nothing is ever altered: who has the table would be refused for the column that it lacks.
        ("    b frozen", "    c int,\n    b frozen"),
    ] {
        assert!(script.contains(from), "{from}");
        let lost = lost(&kept, &read(&script.replace(from, to)));
        assert_eq!(lost.len(), 1, "{from} to {to}: {lost:?}");
    }
    let more = format!("{script}\n{}", script.replace("k.two", "k.three"));
    assert_eq!(lost(&kept, &read(&more)), Vec::<String>::new());
}
