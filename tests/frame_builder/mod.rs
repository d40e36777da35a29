//! Frames for tests and benchmarks, encoded with ciborium and so independent of the code under test.
#![allow(dead_code)]

use ciborium::Value;
use penstock::decode::{Cid, Tid};

/// The time that frames of this builder are from, in microseconds.
pub const NOW: u64 = 1_790_437_941_307_370;
/// The repository of these frames.
pub const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

/// A map of these entries; [`encode`] sorts them.
pub fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(
        entries
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect(),
    )
}

/// A CID under tag 42.
pub fn link(cid: Cid) -> Value {
    let bytes = [&[0][..], &cid.to_bytes()].concat();
    Value::Tag(42, Box::new(Value::Bytes(bytes)))
}

/// Canonical DAG-CBOR of a value.
pub fn encode(value: &Value) -> Vec<u8> {
    encode_as_is(&sorted(value.clone()))
}

/// CBOR of a value, keys in the order that they have.
pub fn encode_as_is(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| (sorted(key), sorted(value)))
                .collect();
            entries.sort_by_cached_key(|(key, _)| {
                let key = encode_as_is(key);
                (key.len(), key)
            });
            Value::Map(entries)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Tag(tag, inner) => Value::Tag(tag, Box::new(sorted(*inner))),
        other => other,
    }
}

/// A CAR with one root.
pub fn car(root: Cid, blocks: &[(Cid, Vec<u8>)]) -> Vec<u8> {
    let header = encode(&map([
        ("version", 1.into()),
        ("roots", Value::Array(vec![link(root)])),
    ]));
    let mut bytes = Vec::new();
    put_uvarint(&mut bytes, header.len());
    bytes.extend(header);
    for (cid, block) in blocks {
        put_uvarint(&mut bytes, Cid::LEN + block.len());
        bytes.extend(cid.to_bytes());
        bytes.extend(block);
    }
    bytes
}

fn put_uvarint(bytes: &mut Vec<u8>, mut value: usize) {
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A block and its CID.
pub fn block(value: &Value) -> (Cid, Vec<u8>) {
    let bytes = encode(value);
    (Cid::of_dag_cbor(&bytes), bytes)
}

/// A commit block of [`DID`].
pub fn commit_block(rev: Tid, data: Cid) -> Value {
    map([
        ("did", DID.into()),
        ("rev", rev.to_string().into()),
        ("sig", Value::Bytes(vec![7; 64])),
        ("data", link(data)),
        ("prev", Value::Null),
        ("version", 3.into()),
    ])
}

/// An operation as a frame has it.
pub fn op(action: &str, path: &str, cid: Option<Cid>) -> Value {
    let cid = cid.map_or(Value::Null, link);
    map([
        ("cid", cid),
        ("path", path.into()),
        ("action", action.into()),
    ])
}

/// A `#commit` whose parts can be changed before it is encoded.
pub struct CommitFrame {
    /// Its revision.
    pub rev: Tid,
    /// The commit's CID.
    pub commit: Cid,
    /// All blocks, that of the commit among them.
    pub blocks: Vec<(Cid, Vec<u8>)>,
    /// The fields of the payload besides `blocks`.
    pub fields: Vec<(String, Value)>,
}

impl CommitFrame {
    /// A commit with these operations and blocks.
    pub fn new(ops: Vec<Value>, mut blocks: Vec<(Cid, Vec<u8>)>) -> Self {
        let rev = Tid::new(NOW, 1);
        let data = blocks
            .first()
            .map_or_else(|| Cid::of_dag_cbor(b"tree"), |block| block.0);
        let (commit, bytes) = block(&commit_block(rev, data));
        blocks.push((commit, bytes));
        let fields = [
            ("ops", Value::Array(ops)),
            ("rev", rev.to_string().into()),
            ("seq", 30_123_456_789u64.into()),
            ("repo", DID.into()),
            ("time", "2026-09-26T15:52:21.310Z".into()),
            ("blobs", Value::Array(Vec::new())),
            ("since", Tid::new(NOW - 60_000_000, 1).to_string().into()),
            ("commit", link(commit)),
            ("rebase", false.into()),
            ("tooBig", false.into()),
            ("prevData", link(Cid::of_dag_cbor(b"tree before"))),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), value)).into();
        Self {
            rev,
            commit,
            blocks,
            fields,
        }
    }

    /// One create of `record` at `path`.
    pub fn create(path: &str, record: &[u8]) -> Self {
        let cid = Cid::of_dag_cbor(record);
        let tree = block(&map([("e", Value::Array(Vec::new())), ("l", Value::Null)]));
        Self::new(
            vec![op("create", path, Some(cid))],
            vec![tree, (cid, record.to_vec())],
        )
    }

    /// Sets or adds a field.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self = self.without(key);
        self.fields.push((key.to_owned(), value.into()));
        self
    }

    /// Takes a field away.
    pub fn without(mut self, key: &str) -> Self {
        self.fields.retain(|(name, _)| name != key);
        self
    }

    /// The frame, its CAR made of the blocks unless a field `blocks` was set.
    pub fn build(self) -> Vec<u8> {
        let mut fields = self.fields;
        if !fields.iter().any(|(key, _)| key == "blocks") {
            fields.push((
                "blocks".to_owned(),
                Value::Bytes(car(self.commit, &self.blocks)),
            ));
        }
        let fields = fields
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect();
        message("#commit", &Value::Map(fields))
    }
}

/// A frame of a message.
pub fn message(t: &str, payload: &Value) -> Vec<u8> {
    frame(&map([("t", t.into()), ("op", 1.into())]), payload)
}

/// A frame of any header and payload.
pub fn frame(header: &Value, payload: &Value) -> Vec<u8> {
    [encode(header), encode(payload)].concat()
}

/// A `#sync` of [`DID`].
pub fn sync_frame() -> Vec<u8> {
    sync_frame_of(Tid::new(NOW, 1))
}

/// The same with a commit that says this revision of itself.
pub fn sync_frame_of(own: Tid) -> Vec<u8> {
    let rev = Tid::new(NOW, 1);
    let (commit, bytes) = block(&commit_block(own, Cid::of_dag_cbor(b"tree")));
    let payload = map([
        ("rev", rev.to_string().into()),
        ("seq", 5.into()),
        ("did", DID.into()),
        ("time", "2026-09-26T15:52:21".into()),
        ("blocks", Value::Bytes(car(commit, &[(commit, bytes)]))),
    ]);
    message("#sync", &payload)
}

/// A message that has but `seq`, `did` and `time`, and what is given.
pub fn plain_frame<const N: usize>(t: &str, more: [(&str, Value); N]) -> Vec<u8> {
    let base = [
        ("seq", 6.into()),
        ("did", DID.into()),
        ("time", "not a time".into()),
    ];
    let fields = base
        .into_iter()
        .chain(more)
        .map(|(key, value)| (key.into(), value))
        .collect();
    message(t, &Value::Map(fields))
}

/// A post of some 350 bytes.
pub fn post(random: &mut fastrand::Rng) -> Vec<u8> {
    let words = [
        "the", "river", "café", "said", "\"no\"", "and", "flows", "📎", "quietly", "on",
    ];
    let text: Vec<_> = (0..18)
        .map(|_| *random.choice(words.iter()).unwrap())
        .collect();
    let strong_ref = |random: &mut fastrand::Rng| {
        let rkey = Tid::new(NOW - random.u64(0..1 << 40), 3);
        map([
            (
                "cid",
                Cid::of_dag_cbor(&random.u64(..).to_le_bytes())
                    .to_string()
                    .into(),
            ),
            (
                "uri",
                format!("at://{DID}/app.bsky.feed.post/{rkey}").into(),
            ),
        ])
    };
    encode(&map([
        ("text", text.join(" ").into()),
        ("$type", "app.bsky.feed.post".into()),
        ("langs", Value::Array(vec!["en".into()])),
        (
            "embed",
            map([
                ("$type", "app.bsky.embed.record".into()),
                ("record", strong_ref(random)),
            ]),
        ),
        ("createdAt", "2026-09-26T15:52:21.301Z".into()),
    ]))
}

/// A tree node of `entries` entries, its links random.
pub fn node(random: &mut fastrand::Rng, entries: usize) -> Value {
    let random_link = |random: &mut fastrand::Rng| link(Cid::new(0x71, random_hash(random)));
    let entry = |at: usize, random: &mut fastrand::Rng| {
        let key = format!(
            "app.bsky.feed.post/{}",
            Tid::new(NOW - random.u64(0..1 << 40), 3)
        );
        let shared = if at == 0 { 0 } else { 21 };
        map([
            ("k", Value::Bytes(key.as_bytes()[shared..].to_vec())),
            ("p", (shared as u64).into()),
            (
                "t",
                if random.bool() {
                    random_link(random)
                } else {
                    Value::Null
                },
            ),
            ("v", random_link(random)),
        ])
    };
    let entries = (0..entries).map(|at| entry(at, random)).collect();
    map([("e", Value::Array(entries)), ("l", random_link(random))])
}

fn random_hash(random: &mut fastrand::Rng) -> [u8; 32] {
    std::array::from_fn(|_| random.u8(..))
}

/// A frame as the live network has it: about 5.4 kB, ten blocks, one new post of some 350 bytes.
pub fn live_frame(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let record = post(&mut random);
    let cid = Cid::of_dag_cbor(&record);
    let mut blocks: Vec<_> = (0..8).map(|_| block(&node(&mut random, 5))).collect();
    blocks.push((cid, record));
    let path = format!("app.bsky.feed.post/{}", Tid::new(NOW - 9000, 3));
    CommitFrame::new(vec![op("create", &path, Some(cid))], blocks).build()
}
