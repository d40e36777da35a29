//! Windowed snapshots: what is absent, and what is in the window.

use penstock::backfill::snapshot::window::{Decision, Window};
use penstock::backfill::snapshot::{Leaf, Mode};
use penstock::config::CollectionFilter;
use penstock::decode::{Cid, Tid};
use penstock_loadtest::dagcbor::Value;

use super::repository::{DID, repository};
use super::{NOW, check, open};

const START: u64 = 1_790_000_000_000_000;
const DAY: u64 = 86_400_000_000;

fn record(created: &'static str) -> Vec<u8> {
    Value::map([
        ("text", Value::text("hello")),
        ("$type", Value::text("com.example.thing")),
        ("createdAt", Value::text(created)),
        ("somethingLonger", Value::text("")),
    ])
    .encode()
}

fn decide(honoured: bool, rkey: &str, record: Option<&[u8]>, held: bool) -> Decision {
    let window = Window {
        start: START,
        honoured,
    };
    let leaf = Leaf {
        collection: "com.example.thing",
        rkey,
        cid: Cid::of_dag_cbor(b"record"),
        record,
    };
    window.decide(&leaf, || held)
}

#[test]
fn where_since_is_honoured_what_is_there_is_in_the_window() {
    let old_key = Tid::new(START - DAY, 0).to_string();
    let new_key = Tid::new(START, 0).to_string();
    let old = record("2020-01-01T00:00:00Z");
    for rkey in [old_key.as_str(), &new_key, "self"] {
        assert_eq!(decide(true, rkey, Some(&old), false), Decision::Write);
        assert_eq!(decide(true, rkey, None, true), Decision::Leave);
    }
    assert_eq!(decide(true, &old_key, None, false), Decision::Leave);
    assert_eq!(decide(true, "self", None, false), Decision::Leave);
    assert_eq!(decide(true, &new_key, None, false), Decision::Fetch);
}

#[test]
fn where_since_is_ignored_the_key_or_the_record_tells() {
    let old_key = Tid::new(START - 1, 0).to_string();
    let new_key = Tid::new(START, 0).to_string();
    let (old, new) = (
        record("2026-09-21T13:46:39.999Z"),
        record("2026-09-21T14:13:20Z"),
    );
    for (rkey, record, expected) in [
        (new_key.as_str(), &old, Decision::Write),
        (&old_key, &old, Decision::Leave),
        (&old_key, &new, Decision::Write),
        ("self", &new, Decision::Write),
        ("self", &old, Decision::Leave),
        ("self", &record("yesterday"), Decision::Leave),
        (
            "self",
            &Value::map([("text", Value::text(""))]).encode(),
            Decision::Leave,
        ),
        ("self", &vec![0xff], Decision::Leave),
    ] {
        assert_eq!(
            decide(false, rkey, Some(record), false),
            expected,
            "{rkey} {record:x?}"
        );
    }
}

#[test]
fn the_request_names_a_revision_of_the_start() {
    let window = Window {
        start: START,
        honoured: true,
    };
    assert_eq!(window.since().micros(), START);
}

/// The window of a CAR, and how many records of it have to be fetched by themselves.
fn window(car: &[u8], start: u64) -> (bool, u64) {
    let mut snapshot = open(car, DID).unwrap();
    let verified = snapshot.verify(Mode::Windowed, || true).unwrap();
    let window = Window::of(&snapshot, start, &verified).unwrap();
    let lacking = window.lacking(&snapshot, &CollectionFilter::ALL).unwrap();
    (window.honoured, lacking)
}

#[test]
fn since_was_ignored_only_if_something_is_older_and_nothing_absent() {
    let (paths, parts) = repository(20, 20);
    let oldest = NOW - 19 * 1_000_000_000;
    assert_eq!(window(&parts.car(), oldest), (true, 0), "a young account");
    assert_eq!(window(&parts.car(), oldest + 1), (false, 0));
    let (_, first) = &paths[0];
    let lacks_one = parts.without(*first).without(paths[1].1).car();
    assert_eq!(window(&lacks_one, oldest), (true, 2));
    assert_eq!(window(&lacks_one, NOW + 1), (true, 0), "they are not new");
}

#[test]
fn absent_blocks_are_counted_and_handed_on() {
    let (paths, parts) = repository(200, 20);
    let full = check(&parts.car(), DID).unwrap();
    let (path, cid) = &paths[77];
    let without_record = parts.without(*cid).car();
    let error = check(&without_record, DID).unwrap_err();
    assert_eq!(error.reason(), "missing_block");
    let text = error.to_string();
    assert!(
        text.contains(path) && text.contains(&cid.to_string()),
        "{text}"
    );
    let mut snapshot = open(&without_record, DID).unwrap();
    let verified = snapshot.verify(Mode::Windowed, || true).unwrap();
    assert_eq!((verified.absent_nodes, verified.total.absent), (0, 1));
    assert_eq!(verified.total.records + 1, full.total.records);

    let node = parts.blocks[3].0;
    let without_node = parts.without(node).car();
    assert!(
        check(&without_node, DID)
            .unwrap_err()
            .to_string()
            .contains(&node.to_string())
    );
    let verified = open(&without_node, DID)
        .unwrap()
        .verify(Mode::Windowed, || true);
    assert_eq!(verified.unwrap().absent_nodes, 1);

    let nothing_newer = parts.without(parts.root).car();
    assert_eq!(
        open(&nothing_newer, DID).unwrap_err().reason(),
        "root_absent"
    );
}
