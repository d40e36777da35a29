//! Frames and what the decoder makes of them: every message type, what is tolerated, what is refused and why.

mod frame_builder;

use ciborium::Value;
use frame_builder::{
    CommitFrame, DID, NOW, block, car, commit_block, encode, encode_as_is, frame, link, live_frame,
    map, message, op, plain_frame, sync_frame, sync_frame_of,
};
use penstock::decode::{
    Action, Cid, DecodeOptions, Decoder, Event, Kind, Limits, Reason, RecordFault, Tid, Verify,
    peek,
};

const POST: &str = "app.bsky.feed.post/3mwgncrrtze23";

fn record(text: &str) -> Vec<u8> {
    encode(&map([
        ("text", text.into()),
        ("$type", "app.bsky.feed.post".into()),
    ]))
}

fn decode(frame: &[u8], check: impl FnOnce(Event<'_>)) {
    let mut decoder = Decoder::new(DecodeOptions::default());
    check(decoder.decode(frame, NOW).unwrap());
}

fn commit(frame: &[u8], check: impl FnOnce(penstock::decode::Commit<'_>)) {
    decode(frame, |event| match event {
        Event::Commit(commit) => check(commit),
        other => panic!("{other:?}"),
    });
}

#[track_caller]
fn refused(frame: &[u8], reason: Reason) {
    refused_by(Verify::All, frame, reason);
}

#[track_caller]
fn refused_by(verify: Verify, frame: &[u8], reason: Reason) {
    let mut decoder = Decoder::new(DecodeOptions {
        verify,
        ..DecodeOptions::default()
    });
    let error = decoder.decode(frame, NOW).unwrap_err();
    assert_eq!(error.reason, reason, "{error}");
}

#[test]
fn a_live_commit() {
    let frame = live_frame(1);
    assert!((5000..6000).contains(&frame.len()), "{}", frame.len());
    for verify in [Verify::All, Verify::Records, Verify::None] {
        let mut decoder = Decoder::new(DecodeOptions {
            verify,
            ..DecodeOptions::default()
        });
        let Ok(Event::Commit(commit)) = decoder.decode(&frame, NOW) else {
            panic!()
        };
        assert_eq!(
            (commit.seq, commit.repo, commit.rev),
            (30_123_456_789, DID, Tid::new(NOW, 1))
        );
        assert_eq!(commit.since, Some(Tid::new(NOW - 60_000_000, 1)));
        assert!(commit.data.is_some() && commit.prev_data.is_some() && !commit.too_big);
        let ops: Vec<_> = commit.ops.iter().collect();
        assert_eq!((ops.len(), commit.ops.len()), (1, 1));
        assert_eq!(
            (ops[0].action, ops[0].collection),
            (Action::Create, "app.bsky.feed.post")
        );
        assert_eq!((ops[0].rkey.len(), ops[0].fault), (13, None));
        let (cid, record) = ops[0].record.unwrap();
        assert_eq!(Cid::of_dag_cbor(record), cid);
        assert!((330..390).contains(&record.len()), "{}", record.len());
    }
    let seen = peek(&frame);
    assert_eq!(
        (seen.kind, seen.did, seen.seq),
        (Kind::Commit, Some(DID), Some(30_123_456_789))
    );
    assert_eq!(seen.time, Some("2026-09-26T15:52:21.310Z"));
}

#[test]
fn the_other_messages() {
    decode(&sync_frame(), |event| {
        let Event::Sync(sync) = event else {
            panic!("{event:?}")
        };
        assert_eq!((sync.seq, sync.did, sync.rev), (5, DID, Tid::new(NOW, 1)));
        assert_eq!(sync.data, Cid::of_dag_cbor(b"tree"));
    });
    decode(
        &plain_frame("#identity", [("handle", "a.example".into())]),
        |event| {
            let Event::Identity(identity) = event else {
                panic!("{event:?}")
            };
            assert_eq!(
                (identity.handle, identity.time),
                (Some("a.example"), "not a time")
            );
        },
    );
    decode(
        &plain_frame("#account", [("active", true.into()), ("status", 5.into())]),
        |event| {
            let Event::Account(account) = event else {
                panic!("{event:?}")
            };
            assert_eq!((account.active, account.status), (true, None));
        },
    );
    decode(
        &message("#info", &map([("name", "OutdatedCursor".into())])),
        |event| {
            assert!(matches!(event, Event::Info(info) if info.name == "OutdatedCursor"));
        },
    );
    for retired in ["#handle", "#tombstone", "#migrate", "#later"] {
        let frame = plain_frame(retired, [("anything", map([("x", 1.into())]))]);
        decode(&frame, |event| {
            assert!(matches!(event, Event::Unknown { kind } if kind == retired))
        });
        assert_eq!(
            (peek(&frame).kind, peek(&frame).did),
            (Kind::Unknown, Some(DID))
        );
    }
    let error = map([("error", "FutureCursor".into()), ("message", "no".into())]);
    let error = frame_builder::frame(&map([("op", (-1).into())]), &error);
    decode(&error, |event| {
        assert!(matches!(
            event,
            Event::Error {
                error: "FutureCursor",
                message: "no"
            }
        ));
    });
    assert_eq!(peek(&error).kind, Kind::Error);
    decode(&frame(&map([("op", 2.into())]), &map([])), |event| {
        assert!(matches!(event, Event::Unknown { kind: "" }));
    });
    refused(&plain_frame("#account", []), Reason::BadField);
    refused(
        &frame(&map([("t", "#commit".into())]), &map([])),
        Reason::BadField,
    );
}

#[test]
fn peek_takes_any_order_of_keys() {
    let record = record("x");
    let mut fields = CommitFrame::create(POST, &record).fields;
    fields.push(("blocks".to_owned(), Value::Bytes(vec![0; 3000])));
    fields.push((
        "nested".to_owned(),
        Value::Array(vec![map([("seq", 1.into())])]),
    ));
    for turn in 0..fields.len() {
        fields.rotate_left(1);
        let payload = fields
            .iter()
            .map(|(key, value)| (key.as_str().into(), value.clone()));
        let header = map([("op", 1.into()), ("t", "#commit".into())]);
        let payload = Value::Map(payload.collect());
        let frame = [encode_as_is(&header), encode_as_is(&payload)].concat();
        let seen = peek(&frame);
        assert_eq!(
            (seen.did, seen.seq),
            (Some(DID), Some(30_123_456_789)),
            "turn {turn}"
        );
    }
}

#[test]
fn what_live_relays_send_is_tolerated() {
    let good = || CommitFrame::create(POST, &record("x"));
    let tolerated = [
        good().set("since", ""),
        good().set("since", Value::Null),
        good().without("since"),
        good().set("time", "2026-09-26T15:52:21"),
        good().set("time", "yesterday"),
        good().set("time", 5),
        good().without("time"),
        good()
            .without("tooBig")
            .without("rebase")
            .without("blobs")
            .without("prevData"),
        good().set("prevData", Value::Null),
        good().set("blobs", Value::Null),
        good().set("prev", Value::Null),
        good().set("prev", link(Cid::of_dag_cbor(b"x"))),
        good().set("somethingNew", map([("a", Value::Array(vec![1.into()]))])),
    ];
    for frame in tolerated {
        commit(&frame.build(), |commit| assert_eq!(commit.ops.len(), 1));
    }
    commit(&good().set("since", "").build(), |commit| {
        assert_eq!(commit.since, None)
    });
    commit(
        &CommitFrame::new(Vec::new(), Vec::new()).build(),
        |commit| {
            assert!(commit.ops.is_empty());
        },
    );
}

#[test]
fn bad_fields() {
    let good = || CommitFrame::create(POST, &record("x"));
    let cid = Cid::of_dag_cbor(&record("x"));
    let one = |op: Value| good().set("ops", Value::Array(vec![op]));
    let frames = [
        good().without("seq"),
        good().without("repo"),
        good().without("rev"),
        good().without("commit"),
        good().without("ops"),
        good().set("blocks", "text"),
        good().set("seq", 0),
        good().set("seq", 1u64 << 53),
        good().set("seq", -1),
        good().set("repo", "plc:abc"),
        good().set("rev", "tomorrow"),
        good().set("since", "tomorrow"),
        good().set("tooBig", "no"),
        good().set("prevData", "no"),
        one(op("replace", POST, Some(cid))),
        one(op("create", POST, None)),
        one(op("delete", POST, Some(cid))),
        one(op("create", "app.bsky.feed.post", Some(cid))),
        one(op("create", "app.bsky.feed.post/", Some(cid))),
        one(op("create", "app.bsky.feed.post/a/b", Some(cid))),
        one(op("create", "app/a", Some(cid))),
        one(map([("action", "delete".into())])),
        one("delete".into()),
    ];
    for (at, frame) in frames.into_iter().enumerate() {
        let mut decoder = Decoder::new(DecodeOptions::default());
        let error = decoder.decode(&frame.build(), NOW).unwrap_err();
        assert_eq!(error.reason, Reason::BadField, "frame {at}: {error}");
    }
}

#[test]
fn bad_cbor() {
    let good = live_frame(2);
    refused(b"", Reason::BadCbor);
    refused(&[&good[..], &[0]].concat(), Reason::BadCbor);
    for cut in [1, 8, 20, 100, good.len() / 2, good.len() - 1] {
        refused(&good[..cut], Reason::BadCbor);
    }
    let unsorted = map([("op", 1.into()), ("t", "#info".into())]);
    let info = encode(&map([("name", "x".into())]));
    refused(
        &[encode_as_is(&unsorted), info.clone()].concat(),
        Reason::BadCbor,
    );
    refused(
        &[&b"\xa2\x61t\x65#info\x62op\x18\x01"[..], &info].concat(),
        Reason::BadCbor,
    );
    refused(
        &message("#info", &map([("x", Value::Tag(1, Box::new(0.into())))])),
        Reason::BadCbor,
    );
    let deep = (0..40).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    refused(&message("#info", &map([("x", deep)])), Reason::TooLarge);
}

#[test]
fn bad_cars_and_commits() {
    let record = record("x");
    let good = || CommitFrame::create(POST, &record);
    refused(
        &good().set("blocks", Value::Bytes(Vec::new())).build(),
        Reason::BadCar,
    );
    let root = Cid::of_dag_cbor(b"other");
    let other_root = car(root, &good().blocks);
    refused(
        &good().set("blocks", Value::Bytes(other_root)).build(),
        Reason::BadCar,
    );
    let cut = car(good().commit, &good().blocks);
    let cut = cut[..cut.len() - 1].to_vec();
    refused(
        &good().set("blocks", Value::Bytes(cut)).build(),
        Reason::BadCar,
    );

    let without = |at: usize| {
        let mut frame = good();
        frame.blocks.remove(at);
        frame.build()
    };
    refused(&without(1), Reason::MissingBlock);
    refused(&without(2), Reason::MissingBlock);

    let with_commit = |value: Value| {
        let (cid, bytes) = block(&value);
        let mut frame = good().set("commit", link(cid));
        frame.commit = cid;
        frame.blocks.pop();
        frame.blocks.push((cid, bytes));
        frame.build()
    };
    let rev = good().rev;
    let Value::Map(fields) = commit_block(rev, root) else {
        panic!()
    };
    let changed = |key: &str, value: Value| {
        let mut fields = fields.clone();
        fields
            .iter_mut()
            .find(|field| field.0 == key.into())
            .unwrap()
            .1 = value;
        with_commit(Value::Map(fields))
    };
    commit(&changed("version", 3.into()), |_| {});
    refused(&changed("version", 2.into()), Reason::BadCommit);
    refused(
        &changed("did", "did:web:other.example".into()),
        Reason::BadCommit,
    );
    refused(
        &changed("rev", Tid::new(NOW - 1, 1).to_string().into()),
        Reason::BadCommit,
    );
    refused(&changed("data", Value::Null), Reason::BadCommit);
    refused(&with_commit("x".into()), Reason::BadCommit);
}

#[test]
fn hashes_are_checked_as_asked() {
    let damaged = |at: usize| {
        let mut frame = CommitFrame::create(POST, &record("x"));
        let last = frame.blocks[at].1.len() - 1;
        frame.blocks[at].1[last] ^= 1;
        frame.build()
    };
    let (node, record, commit_at) = (damaged(0), damaged(1), damaged(2));
    for frame in [&node, &record, &commit_at] {
        refused(frame, Reason::CidMismatch);
    }
    refused_by(Verify::Records, &record, Reason::CidMismatch);
    refused_by(Verify::Records, &commit_at, Reason::CidMismatch);
    let records = DecodeOptions {
        verify: Verify::Records,
        ..DecodeOptions::default()
    };
    assert!(Decoder::new(records).decode(&node, NOW).is_ok());
    let none = DecodeOptions {
        verify: Verify::None,
        ..DecodeOptions::default()
    };
    assert!(Decoder::new(none).decode(&record, NOW).is_ok());
}

#[test]
fn a_sync_may_carry_an_older_commit() {
    let sync_of = |own| {
        let frame = sync_frame_of(own);
        let mut decoder = Decoder::new(DecodeOptions::default());
        match decoder.decode(&frame, NOW) {
            Ok(Event::Sync(sync)) => Ok(sync.rev),
            Ok(event) => panic!("{event:?}"),
            Err(error) => Err(error.reason),
        }
    };
    // As after an import: the new host announces a revision of its own for the last commit of the old one.
    assert_eq!(sync_of(Tid::new(NOW - 1, 1)), Ok(Tid::new(NOW, 1)));
    assert_eq!(sync_of(Tid::new(NOW, 2)), Err(Reason::BadCommit));
}

#[test]
fn a_rev_from_the_future_is_not_believed() {
    let frame = live_frame(3);
    let mut decoder = Decoder::new(DecodeOptions::default());
    let ahead = 5 * 60 * 1_000_000;
    assert!(decoder.decode(&frame, NOW - ahead).is_ok());
    let error = decoder.decode(&frame, NOW - ahead - 1).unwrap_err();
    assert_eq!(error.reason, Reason::FutureRev);
    let error = decoder.decode(&sync_frame(), 0).unwrap_err();
    assert_eq!(error.reason, Reason::FutureRev);
}

#[test]
fn a_faulty_record_is_kept() {
    let faulty = encode(&map([("a", 1.5.into())]));
    commit(&CommitFrame::create(POST, &faulty).build(), |commit| {
        let op = commit.ops.iter().next().unwrap();
        assert_eq!(op.fault, Some(RecordFault::BadValue));
        assert_eq!(op.record.unwrap().1, faulty);
    });
}

#[test]
fn too_big_gives_what_is_there() {
    let record = record("x");
    let cid = Cid::of_dag_cbor(&record);
    let absent = Cid::of_dag_cbor(b"absent");
    let ops = vec![
        op("create", "a.b.c/1", Some(cid)),
        op("create", "a.b.c/2", Some(absent)),
        op("delete", "a.b.c/3", None),
    ];
    let frame = || CommitFrame::new(ops.clone(), vec![(cid, record.clone())]).set("tooBig", true);
    commit(&frame().build(), |commit| {
        assert!(commit.too_big && commit.data.is_some());
        let rkeys: Vec<_> = commit.ops.iter().map(|op| op.rkey).collect();
        assert_eq!(rkeys, ["1", "3"]);
    });
    commit(
        &frame().set("blocks", Value::Bytes(Vec::new())).build(),
        |commit| {
            assert!(commit.too_big && commit.data.is_none());
            assert_eq!(commit.ops.len(), 1);
        },
    );
    refused(
        &frame().set("blocks", Value::Bytes(vec![1])).build(),
        Reason::BadCar,
    );
}

#[test]
fn the_last_operation_on_a_path_counts() {
    for paths in [3usize, 1000] {
        let blocks: Vec<_> = (0..paths)
            .map(|n| block(&map([("n", (n as u64).into())])))
            .collect();
        let path = |n: usize| format!("a.b.c/{n}");
        // Created, deleted, and every third created again with the next record.
        let created = (0..paths).map(|n| op("create", &path(n), Some(blocks[n].0)));
        let deleted = (0..paths).map(|n| op("delete", &path(n), None));
        let again = |n: usize| op("create", &path(n), Some(blocks[(n + 1) % paths].0));
        let again = (0..paths).step_by(3).map(again);
        let ops: Vec<_> = created.chain(deleted).chain(again).collect();
        commit(&CommitFrame::new(ops, blocks.clone()).build(), |commit| {
            assert_eq!(commit.ops.len(), paths);
            for op in commit.ops.iter() {
                let n: usize = op.rkey.parse().unwrap();
                let expected = n.is_multiple_of(3).then(|| blocks[(n + 1) % paths].0);
                assert_eq!(op.record.map(|record| record.0), expected, "{n}");
                assert_eq!(op.action == Action::Delete, expected.is_none());
                if let Some((cid, bytes)) = op.record {
                    assert_eq!(Cid::of_dag_cbor(bytes), cid);
                }
            }
        });
    }
}

#[test]
fn an_overridden_operation_needs_no_block() {
    let record = record("x");
    let cid = Cid::of_dag_cbor(&record);
    let ops = vec![
        op("create", "a.b.c/1", Some(Cid::of_dag_cbor(b"absent"))),
        op("update", "a.b.c/1", Some(cid)),
    ];
    commit(
        &CommitFrame::new(ops, vec![(cid, record)]).build(),
        |commit| {
            assert_eq!(commit.ops.iter().next().unwrap().action, Action::Update);
        },
    );
}

#[test]
fn limits_hold() {
    let record = record("some text");
    let cid = Cid::of_dag_cbor(&record);
    let ops = (0..40)
        .map(|n| op("create", &format!("a.b.c/{n}"), Some(cid)))
        .collect();
    let frame = CommitFrame::new(ops, vec![(cid, record.clone())]).build();
    let limits = Limits::default();
    let cases = [
        (limits, true),
        (
            Limits {
                frame_bytes: frame.len(),
                ..limits
            },
            true,
        ),
        (
            Limits {
                frame_bytes: frame.len() - 1,
                ..limits
            },
            false,
        ),
        (Limits { ops: 40, ..limits }, true),
        (Limits { ops: 39, ..limits }, false),
        (
            Limits {
                blocks: 2,
                ..limits
            },
            true,
        ),
        (
            Limits {
                blocks: 1,
                ..limits
            },
            false,
        ),
        (
            Limits {
                record_bytes: record.len(),
                ..limits
            },
            true,
        ),
        (
            Limits {
                record_bytes: record.len() - 1,
                ..limits
            },
            false,
        ),
        (
            Limits {
                records_bytes: 40 * record.len(),
                ..limits
            },
            true,
        ),
        (
            Limits {
                records_bytes: 40 * record.len() - 1,
                ..limits
            },
            false,
        ),
    ];
    for (limits, good) in cases {
        let mut decoder = Decoder::new(DecodeOptions {
            limits,
            ..DecodeOptions::default()
        });
        let reason = decoder.decode(&frame, NOW).err().map(|error| error.reason);
        assert_eq!(reason, (!good).then_some(Reason::TooLarge), "{limits:?}");
    }
}
