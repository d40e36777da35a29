//! Stores to move between, something of everything to put into them, and all that they say.

use std::io::Cursor;
use std::sync::Arc;

use penstock::decode::{Cid, Tid};
use penstock::dump::{ImportError, ImportOptions, Imported, Seal, export, import};
use penstock::slot::SlotSet;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Choice, ChoiceKind, Complete, Fact, FactKind, HandleWrite, QuarantineEntry, Quarantined,
    Record, RecordBody, RecordWrite, RecordsQuery, Removal, Repair, RepairKind, Repo, RepoStatus,
    RevWrite, Scope, SnapshotDone, StatusWrite, Store, WriteBatch,
};
use serde_json::Value;
use tempfile::TempDir;

pub const ALICE: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
pub const BOB: &str = "did:web:bob.example.com";
pub const CAROL: &str = "did:plc:carol";
pub const DAVE: &str = "did:key:zQ3sh";
pub const POST: &str = "app.bsky.feed.post";
pub const LIKE: &str = "app.bsky.feed.like";

pub const SECOND: u64 = 1_000_000;
pub const DAY: u64 = 86_400 * SECOND;
/// When dumps are made, unless a test says otherwise.
pub const NOW: u64 = 1_795_406_400_000_000;

/// A new, empty store.
pub struct Place {
    pub kind: &'static str,
    pub store: Arc<dyn Store>,
    _folder: Option<TempDir>,
}

/// One of every kind of store. Every test makes its stores here.
pub async fn stores() -> Vec<Place> {
    let folder = TempDir::new().unwrap();
    let options = EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(folder.path().join("data"))
    };
    let embedded = EmbeddedStore::open(options).unwrap();
    let place = |kind, store, _folder| Place {
        kind,
        store,
        _folder,
    };
    vec![
        place("memory", Arc::new(MemoryStore::new()), None),
        place("embedded", Arc::new(embedded), Some(folder)),
    ]
}

/// The cheapest of them.
pub async fn store() -> Arc<dyn Store> {
    stores().await.swap_remove(0).store
}

pub fn cid(text: &str) -> Cid {
    Cid::of_dag_cbor(text.as_bytes())
}

/// The revision of so many microseconds after [`NOW`] minus 20 days.
pub fn rev(at: u64) -> Tid {
    Tid::new(NOW - 20 * DAY + at, 7)
}

pub async fn put(
    store: &dyn Store,
    (did, collection, rkey): (&str, &str, &str),
    rev: Tid,
    text: Option<&str>,
) {
    put_at(
        store,
        (did, collection, rkey),
        rev.micros(),
        rev,
        text,
        None,
    )
    .await;
}

pub async fn put_at(
    store: &dyn Store,
    (did, collection, rkey): (&str, &str, &str),
    version: u64,
    rev: Tid,
    text: Option<&str>,
    json: Option<&str>,
) {
    let mut batch = WriteBatch::new();
    let body = text.map(|text| RecordBody {
        cid: cid(text),
        record: text.as_bytes(),
        json: json.map(str::as_bytes),
    });
    batch.put_record(RecordWrite {
        did,
        collection,
        rkey,
        version,
        rev,
        body,
    });
    batch.put_rev(RevWrite {
        did,
        rev,
        data: cid("data"),
        commit: cid(&rev.to_string()),
    });
    store.apply(batch).await.unwrap();
}

pub async fn say(store: &dyn Store, did: &str, version: u64, active: bool, status: Option<&str>) {
    let mut batch = WriteBatch::new();
    batch.put_status(StatusWrite {
        did: did.to_owned(),
        version,
        status: RepoStatus {
            active,
            status: status.map(str::to_owned),
        },
        repair_if_stale: None,
        repair_if_reactivated: None,
    });
    store.apply(batch).await.unwrap();
}

pub async fn name(store: &dyn Store, did: &str, version: u64, handle: &str) {
    let mut batch = WriteBatch::new();
    batch.put_handle(HandleWrite {
        did: did.to_owned(),
        version,
        handle: handle.to_owned(),
    });
    store.apply(batch).await.unwrap();
}

pub async fn remove(store: &dyn Store, did: &str, scope: Scope, version: u64) {
    let removal = Removal {
        did: did.to_owned(),
        scope,
        version,
        floor: true,
    };
    store.remove(removal).await.unwrap();
}

/// A fact of the relay `r`; the time at a `seq` of 100 is [`NOW`], each one less is a day before.
pub fn fact(run: u64, from: u64, to: u64) -> Fact {
    let time = |seq: u64| NOW + seq * DAY - 100 * DAY;
    Fact {
        relay: "r.example".to_owned(),
        generation: 0,
        run,
        from_seq: from,
        to_seq: to,
        from_time: time(from),
        to_time: time(to),
        slots: SlotSet::ALL,
        filter: String::new(),
        kind: FactKind::Live,
    }
}

/// Something of everything that a store can hold.
pub async fn fill(store: &dyn Store) {
    records(store).await;
    repos(store).await;
    rest(store).await;
}

async fn records(store: &dyn Store) {
    let long = "k".repeat(512);
    for (at, (did, collection, rkey)) in [
        (ALICE, POST, "3mwgncrrtze23"),
        (CAROL, POST, "self"),
        (CAROL, POST, "~a.b:c_d-e"),
        (ALICE, LIKE, "3mwgncrrtze23"),
        (CAROL, "zz.example.odd-one.thing", &long),
        (BOB, POST, "3mwgncrrtze24"),
        (BOB, POST, "gone"),
        (CAROL, LIKE, "1"),
        (DAVE, POST, "3mwgncrrtze23"),
    ]
    .into_iter()
    .enumerate()
    {
        let text = format!("{did} {at}\n\0\u{fe}");
        put(store, (did, collection, rkey), rev(at as u64), Some(&text)).await;
    }
    let json = Some("{\"n\": [1, \"\u{e9}\\n\"]}");
    put_at(
        store,
        (CAROL, POST, "json"),
        rev(30).micros(),
        rev(30),
        Some("j"),
        json,
    )
    .await;
    put(store, (BOB, POST, "gone"), rev(31), None).await;
}

async fn repos(store: &dyn Store) {
    // Alice: a snapshot above her floors, written at another version than its revision.
    remove(
        store,
        ALICE,
        Scope::Collection(LIKE.to_owned()),
        rev(50).micros(),
    )
    .await;
    let (seen, version) = (rev(40), rev(51).micros());
    put_at(
        store,
        (ALICE, LIKE, "3mwgncrrtze25"),
        version,
        seen,
        Some("snapshot"),
        None,
    )
    .await;
    put(
        store,
        (ALICE, POST, "3mwgncrrtze27"),
        rev(60),
        Some("later"),
    )
    .await;
    let complete = |rev, version, filter: &str| Complete {
        rev,
        version,
        filter: filter.to_owned(),
    };
    let done = |did: &str, scopes, complete| SnapshotDone {
        did: did.to_owned(),
        scopes,
        complete,
        settled: false,
    };
    let whole = done(ALICE, vec![Scope::Repo], complete(seen, version, ""));
    store.complete_snapshot(whole).await.unwrap();
    // Bob: removed, and active again with a younger record; a snapshot of one collection.
    remove(store, BOB, Scope::Repo, rev(5).micros()).await;
    put(
        store,
        (BOB, LIKE, "old"),
        rev(59),
        Some("not of the snapshot's collection"),
    )
    .await;
    put(store, (BOB, POST, "3mwgncrrtze26"), rev(61), Some("again")).await;
    let scopes = vec![Scope::Collection(POST.to_owned())];
    let part = done(BOB, scopes, complete(rev(61), rev(61).micros(), POST));
    store.complete_snapshot(part).await.unwrap();

    say(store, ALICE, 5, true, None).await;
    say(store, BOB, rev(3).micros(), false, Some("takendown")).await;
    say(store, CAROL, rev(3).micros(), false, None).await;
    say(
        store,
        "did:web:only.status",
        1,
        true,
        Some("odd\n\"value\""),
    )
    .await;
    name(store, ALICE, rev(9).micros(), "alice.test").await;
    name(store, "did:web:only.handle", 0, "handle.invalid").await;
}

async fn rest(store: &dyn Store) {
    let mut batch = WriteBatch::new();
    for (did, kind) in [
        (ALICE, RepairKind::Content),
        (ALICE, RepairKind::Status),
        ("", RepairKind::Content),
        (CAROL, RepairKind::Floor),
    ] {
        batch.put_repair(Repair {
            did: did.to_owned(),
            id: format!("r.example~0~7~{}", kind.as_str()),
            kind,
            reason: "quarantined".to_owned(),
            version: 17,
        });
    }
    for (id, raw, evicted) in [
        ("20261123-00-a", vec![], Some(70_000)),
        ("20261123-00-b", vec![0, 255, 10], None),
        ("20261123-00-c", vec![], None),
    ] {
        batch.put_quarantined(Quarantined {
            id: id.to_owned(),
            received: NOW,
            reason: "bad_cbor".to_owned(),
            detail: "it \"ends\" early".to_owned(),
            source: "r.example".to_owned(),
            seq: raw.first().map(|_| 9),
            did: evicted.map(|_| "no did".to_owned()),
            raw,
            evicted,
        });
    }
    store.apply(batch).await.unwrap();
    let mut odd = fact(3, 85, 100);
    odd.slots = SlotSet::owned_by(1, 3);
    odd.filter = "app.bsky.*".to_owned();
    odd.kind = FactKind::Replay;
    let mut passed = fact(4, 99, 100);
    passed.kind = FactKind::Passed;
    passed.generation = 2;
    // The gap from 80 to 85 is old.
    let facts = [
        fact(1, 10, 50),
        fact(2, 50, 80),
        odd,
        passed,
        fact(5, 85, 100),
    ];
    store.put_facts(&facts).await.unwrap();
    for (kind, name, body) in [
        (ChoiceKind::OptOut, CAROL, "{\"why\": \"\u{e9}\"}"),
        (ChoiceKind::OptOut, ALICE, ""),
        (ChoiceKind::Collection, POST, "{}"),
        // These belong to where they are.
        (ChoiceKind::JobDids, "7~1", "[]"),
        (ChoiceKind::Mark, "seen", "{}"),
    ] {
        choose(store, kind, name, body).await;
    }
}

pub async fn choose(store: &dyn Store, kind: ChoiceKind, name: &str, body: &str) {
    let choice = Choice {
        kind,
        name: name.to_owned(),
        body: body.into(),
    };
    store.put_choice(&choice).await.unwrap();
}

/// All that a store says.
#[derive(Debug, PartialEq)]
pub struct Contents {
    pub records: Vec<Record>,
    pub repos: Vec<Repo>,
    pub repairs: Vec<Repair>,
    pub quarantine: Vec<(QuarantineEntry, Vec<u8>)>,
    pub facts: Vec<Fact>,
    /// Those that a dump has.
    pub choices: Vec<Choice>,
}

pub async fn contents(store: &dyn Store) -> Contents {
    let mut query = RecordsQuery {
        limit: 3,
        values: true,
        ..RecordsQuery::default()
    };
    let mut records = Vec::new();
    loop {
        let page = store.records(&query).await.unwrap();
        records.extend(page.items);
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    let path = |record: &Record| {
        (
            record.did.clone(),
            record.collection.clone(),
            record.rkey.clone(),
        )
    };
    records.sort_by_key(path);
    let mut repos = store.repos(None, 1000).await.unwrap().items;
    repos.sort_by(|a, b| a.did.cmp(&b.did));
    let mut repairs = store.repairs(None, 1000).await.unwrap().items;
    repairs.sort_by(|a, b| (&a.did, &a.id).cmp(&(&b.did, &b.id)));
    let mut quarantine = Vec::new();
    for entry in store.quarantine(None, 1000).await.unwrap().items {
        quarantine.push(store.quarantined(&entry.id).await.unwrap().unwrap());
    }
    quarantine.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    let mut choices = Vec::new();
    for kind in [ChoiceKind::Collection, ChoiceKind::OptOut] {
        let page = store.choices(kind, "", None, 1000).await;
        choices.extend(page.unwrap().items);
    }
    Contents {
        choices,
        records,
        repos,
        repairs,
        quarantine,
        facts: store.facts().await.unwrap(),
    }
}

/// The dump of a store, made at [`NOW`].
pub async fn dump(store: &Arc<dyn Store>) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut calls, mut last) = (0, None);
    let mut progress = |counts: &_| (calls, last) = (calls + 1, Some(*counts));
    let counts = export(store, &mut out, NOW, &mut progress).await.unwrap();
    assert_eq!(last, Some(counts));
    assert_eq!(calls, lines(&out).len());
    out
}

pub async fn take(store: &Arc<dyn Store>, dump: &[u8], now: u64) -> Result<Imported, ImportError> {
    let options = ImportOptions {
        now,
        verify_cids: true,
    };
    import(store, Cursor::new(dump.to_vec()), options, &mut |_| ()).await
}

pub fn lines(dump: &[u8]) -> Vec<Vec<u8>> {
    let lines = dump.split_inclusive(|byte| *byte == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}

/// Lines as JSON, without their checks, in an order of their own.
pub fn bare(dump: &[u8]) -> Vec<String> {
    let mut bare: Vec<String> = lines(dump)
        .iter()
        .map(|line| {
            let mut line: Value = serde_json::from_slice(line).unwrap();
            line.as_object_mut().unwrap().remove("check").unwrap();
            line.to_string()
        })
        .collect();
    bare.sort();
    bare
}

/// A dump of these lines, whose checks fit again.
pub fn sealed(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut seal = Seal::default();
    let mut dump = Vec::new();
    for line in lines {
        let at = line.windows(10).rposition(|part| part == b",\"check\":\"");
        let mut line = line[..at.unwrap()].to_vec();
        line.push(b'}');
        seal.close(&mut line);
        dump.extend(line);
        dump.push(b'\n');
    }
    dump
}

/// Changes a text in the first line that has it; gives the dump, and the number of the line.
pub fn changed(dump: &[u8], from: &str, to: &str) -> (Vec<u8>, u64) {
    let mut lines = lines(dump);
    let text = |line: &Vec<u8>| String::from_utf8(line.clone()).unwrap();
    let at = lines.iter().position(|line| text(line).contains(from));
    let at = at.unwrap_or_else(|| panic!("no line has {from}"));
    lines[at] = text(&lines[at]).replacen(from, to, 1).into_bytes();
    (sealed(&lines), at as u64 + 1)
}
