//! What people publish: the mix of collections and the shapes of records of the live network (protocol.md, section 9).

use std::borrow::Cow;
use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use crate::dagcbor::{Cid, Value};
use crate::datetime;
use crate::tid::Tid;

const WORDS: &[&str] = &[
    "the",
    "a",
    "of",
    "river",
    "sky",
    "and",
    "today",
    "coffee",
    "späti",
    "日本語",
    "привет",
    "🦋",
    "👩‍👩‍👧‍👦",
    "is",
    "not",
    "very",
    "quiet",
    "morning",
    "naïve",
    "train",
    "late",
    "again",
    "مرحبا",
    "code",
    "cat",
];

/// A new record: where it goes and what it is.
pub(crate) struct Draft {
    pub path: Arc<str>,
    pub value: Value,
}

/// How a record breaks the data model on purpose; its CID is right all the same.
#[derive(Clone, Copy)]
pub(crate) enum Oddity {
    Float,
    KeyOrder,
}

/// A random text of base32 letters, as in `did:plc`.
pub(crate) fn letters(rng: &mut ChaCha8Rng, len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(len);
    let mut bits = 0u64;
    for at in 0..len {
        if at % 12 == 0 {
            bits = rng.next_u64();
        }
        text.push(ALPHABET[(bits & 31) as usize] as char);
        bits >>= 5;
    }
    text
}

pub(crate) fn some_cid(rng: &mut ChaCha8Rng) -> Cid {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    Cid::of(&bytes)
}

fn words(rng: &mut ChaCha8Rng, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 32);
    while text.len() < bytes {
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
        text.push(' ');
    }
    text
}

fn strong_ref(rng: &mut ChaCha8Rng, micros: u64) -> Value {
    let rkey = Tid::new(micros - rng.random_range(1..1_000_000_000), rng.next_u64());
    let uri = format!(
        "at://did:plc:{}/app.bsky.feed.post/{rkey}",
        letters(rng, 24)
    );
    Value::map([
        ("cid", Value::Link(some_cid(rng)).as_text()),
        ("uri", Value::text(uri)),
    ])
}

impl Value {
    /// A strong reference spells its CID as text.
    fn as_text(&self) -> Value {
        match self {
            Value::Link(cid) => Value::text(cid.to_string()),
            other => other.clone(),
        }
    }
}

fn created_at(micros: u64) -> Value {
    Value::text(datetime::millis(micros))
}

/// A record of the live mix; `micros` is when it is made.
pub(crate) fn draft(rng: &mut ChaCha8Rng, micros: u64) -> Draft {
    let roll = rng.random_range(0..1000);
    let collection = match roll {
        0..700 => "app.bsky.feed.like",
        700..820 => "app.bsky.feed.post",
        820..920 => "app.bsky.feed.repost",
        920..980 => "app.bsky.graph.follow",
        980..986 => "app.bsky.graph.block",
        986..989 => "app.bsky.actor.profile",
        989..994 => "com.example.notes.entry",
        _ => "blog.example.Article",
    };
    let rkey: Cow<'static, str> = match collection {
        "app.bsky.actor.profile" => "self".into(),
        "com.example.notes.entry" => {
            format!("a:{}_~.-{}", letters(rng, 4), rng.random_range(0..50)).into()
        }
        _ => Tid::new(micros, rng.next_u64()).to_string().into(),
    };
    Draft {
        path: format!("{collection}/{rkey}").into(),
        value: content(rng, collection, micros),
    }
}

/// A record for a path that exists, or that existed.
pub(crate) fn content_of(rng: &mut ChaCha8Rng, path: &str, micros: u64) -> Value {
    content(rng, path.split('/').next().unwrap_or_default(), micros)
}

/// The profile that a new account begins with.
pub(crate) fn profile(rng: &mut ChaCha8Rng, micros: u64) -> Draft {
    Draft {
        path: "app.bsky.actor.profile/self".into(),
        value: content(rng, "app.bsky.actor.profile", micros),
    }
}

fn content(rng: &mut ChaCha8Rng, collection: &str, micros: u64) -> Value {
    let kind = Value::text(collection.to_owned());
    match collection {
        "app.bsky.feed.like" | "app.bsky.feed.repost" => Value::map([
            ("$type", kind),
            ("subject", strong_ref(rng, micros)),
            ("createdAt", created_at(micros)),
        ]),
        "app.bsky.graph.follow" | "app.bsky.graph.block" => Value::map([
            ("$type", kind),
            (
                "subject",
                Value::text(format!("did:plc:{}", letters(rng, 24))),
            ),
            ("createdAt", created_at(micros)),
        ]),
        "app.bsky.actor.profile" => Value::map([
            ("$type", kind),
            ("avatar", blob(rng)),
            ("description", Value::text(words(rng, 120))),
            ("displayName", Value::text(words(rng, 12))),
        ]),
        "app.bsky.feed.post" => post(rng, kind, micros),
        "com.example.notes.entry" => notes(rng, kind),
        _ => Value::map([
            ("$type", kind),
            ("title", Value::text(words(rng, 40))),
            ("content", Value::text(long_text(rng))),
        ]),
    }
}

fn long_text(rng: &mut ChaCha8Rng) -> String {
    let bytes = match rng.random_range(0..40) {
        0 => 60_000,
        1..4 => 12_000,
        _ => 1_500,
    };
    words(rng, bytes)
}

fn blob(rng: &mut ChaCha8Rng) -> Value {
    let mut hash = [0; 32];
    rng.fill_bytes(&mut hash);
    Value::map([
        ("$type", Value::text("blob")),
        ("ref", Value::Link(Cid::raw(hash))),
        ("mimeType", Value::text("image/jpeg")),
        ("size", Value::Int(rng.random_range(1_000..1_000_000))),
    ])
}

fn post(rng: &mut ChaCha8Rng, kind: Value, micros: u64) -> Value {
    let len = rng.random_range(5..300);
    let mut pairs: Vec<(Cow<'static, str>, Value)> = vec![
        ("$type".into(), kind),
        ("text".into(), Value::text(words(rng, len))),
        ("langs".into(), Value::List(vec![Value::text("en")])),
        ("createdAt".into(), created_at(micros)),
    ];
    if rng.random_bool(0.4) {
        let reply = [
            ("root", strong_ref(rng, micros)),
            ("parent", strong_ref(rng, micros)),
        ];
        pairs.push(("reply".into(), Value::map(reply)));
    }
    if rng.random_bool(0.2) {
        let images = (0..rng.random_range(1..5))
            .map(|_| Value::map([("alt", Value::text(words(rng, 30))), ("image", blob(rng))]));
        let images = Value::List(images.collect());
        let embed = [
            ("$type", Value::text("app.bsky.embed.images")),
            ("images", images),
        ];
        pairs.push(("embed".into(), Value::map(embed)));
    }
    if rng.random_bool(0.15) {
        pairs.push(("facets".into(), Value::List(vec![facet(rng)])));
    }
    Value::sorted(pairs)
}

fn facet(rng: &mut ChaCha8Rng) -> Value {
    let index = [
        ("byteStart", Value::Int(0)),
        ("byteEnd", Value::Int(rng.random_range(1..9))),
    ];
    let link = [
        ("$type", Value::text("app.bsky.richtext.facet#link")),
        (
            "uri",
            Value::text(format!("https://example.com/{}", letters(rng, 9))),
        ),
    ];
    Value::map([
        ("index", Value::map(index)),
        ("features", Value::List(vec![Value::map(link)])),
    ])
}

/// All that the data model knows.
fn notes(rng: &mut ChaCha8Rng, kind: Value) -> Value {
    let mut raw = vec![0; rng.random_range(0..70)];
    rng.fill_bytes(&mut raw);
    let mut nested = Value::Int(-1);
    for _ in 0..rng.random_range(0..12) {
        nested = Value::List(vec![
            nested,
            Value::map([("é", Value::Null), ("", Value::Bool(true))]),
        ]);
    }
    Value::map([
        ("$type", kind),
        ("n", Value::Int(rng.random_range(-(1 << 53)..1 << 53))),
        ("raw", Value::Bytes(raw)),
        ("link", Value::Link(some_cid(rng))),
        ("none", Value::Null),
        ("empty", Value::Map(Vec::new())),
        ("list", Value::List(Vec::new())),
        ("quote\"\\\u{1}\u{7f}", Value::text("line\nline\u{2028}\"")),
        ("nested", nested),
    ])
}

/// Breaks the data model, not the CID.
pub(crate) fn make_odd(value: &mut Value, oddity: Oddity) {
    let Value::Map(pairs) = value else { return };
    match oddity {
        Oddity::Float => {
            pairs.push(("oddFloatHere".into(), Value::Float(1.5)));
            *value = Value::sorted(std::mem::take(pairs));
        }
        Oddity::KeyOrder => pairs.reverse(),
    }
}
