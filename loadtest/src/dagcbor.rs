//! DAG-CBOR as AT Protocol writes it (protocol.md, section 6): values, their canonical bytes, their CIDs, their JSON.
//!
//! Written for the simulator alone, so that it shares no mistake with the code under test. A [`Value::Map`] is written
//! in the order it is in: [`Value::map`] sorts, and a record that breaks the order on purpose does not call it.

use std::borrow::Cow;
use std::fmt;

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD};
use sha2::{Digest, Sha256};

/// A CID: version 1, dag-cbor or raw, SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    codec: u8,
    hash: [u8; 32],
}

impl Cid {
    /// The CID of a block of DAG-CBOR.
    pub fn of(block: &[u8]) -> Self {
        Self {
            codec: 0x71,
            hash: Sha256::digest(block).into(),
        }
    }

    /// The CID of a blob with this hash.
    pub fn raw(hash: [u8; 32]) -> Self {
        Self { codec: 0x55, hash }
    }

    /// The 36 bytes.
    pub fn to_bytes(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..4].copy_from_slice(&[1, self.codec, 0x12, 0x20]);
        bytes[4..].copy_from_slice(&self.hash);
        bytes
    }

    /// Parses the 36 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [1, codec @ (0x55 | 0x71), 0x12, 0x20, hash @ ..] => Some(Self {
                codec: *codec,
                hash: hash.try_into().ok()?,
            }),
            _ => None,
        }
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.strip_prefix('b')?.to_ascii_uppercase();
        Self::from_bytes(&BASE32_NOPAD.decode(upper.as_bytes()).ok()?)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = BASE32_NOPAD.encode(&self.to_bytes());
        write!(f, "b{}", text.to_ascii_lowercase())
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value of the data model, and a float, which the data model forbids.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// Breaks the data model of AT Protocol.
    Float(f64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text.
    Text(Cow<'static, str>),
    /// A CID in tag 42.
    Link(Cid),
    /// A list.
    List(Vec<Value>),
    /// A map, written in this order.
    Map(Vec<(Cow<'static, str>, Value)>),
}

impl Value {
    /// A map in canonical order: shorter keys first, then by bytes.
    pub fn map<const N: usize>(pairs: [(&'static str, Value); N]) -> Self {
        Self::sorted(
            pairs
                .into_iter()
                .map(|(key, value)| (Cow::Borrowed(key), value))
                .collect(),
        )
    }

    /// The same for any number of pairs.
    pub fn sorted(mut pairs: Vec<(Cow<'static, str>, Value)>) -> Self {
        pairs.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
        Self::Map(pairs)
    }

    /// A text.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(text.into())
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out);
        out
    }

    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => null(out),
            Self::Bool(value) => bool(out, *value),
            Self::Int(value) => int(out, *value),
            Self::Float(value) => {
                out.push(0xfb);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::Bytes(value) => bytes(out, value),
            Self::Text(value) => text(out, value),
            Self::Link(cid) => link(out, cid),
            Self::List(items) => {
                head(out, 4, items.len() as u64);
                items.iter().for_each(|item| item.write(out));
            }
            Self::Map(pairs) => {
                head(out, 5, pairs.len() as u64);
                for (key, value) in pairs {
                    text(out, key);
                    value.write(out);
                }
            }
        }
    }

    /// The AT Protocol JSON: `{"$link": …}`, `{"$bytes": …}`.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) => Json::from(*value),
            Self::Float(value) => Json::from(*value),
            Self::Bytes(value) => single("$bytes", BASE64_NOPAD.encode(value)),
            Self::Text(value) => Json::from(value.as_ref()),
            Self::Link(cid) => single("$link", cid.to_string()),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(pairs) => pairs
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

fn single(key: &str, value: String) -> serde_json::Value {
    let mut map = serde_json::Map::with_capacity(1);
    map.insert(key.to_owned(), value.into());
    map.into()
}

/// Appends the head of an item, as short as it goes.
pub fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    if value < 24 {
        out.push(major | value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend_from_slice(&[major | 24, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(major | 25);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(major | 26);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends an integer.
pub fn int(out: &mut Vec<u8>, value: i64) {
    if value >= 0 {
        head(out, 0, value.unsigned_abs());
    } else {
        head(out, 1, !value as u64);
    }
}

/// Appends a text.
pub fn text(out: &mut Vec<u8>, value: &str) {
    head(out, 3, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// Appends a byte string.
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    head(out, 2, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a boolean.
pub fn bool(out: &mut Vec<u8>, value: bool) {
    out.push(0xf4 | u8::from(value));
}

/// Appends a `null`.
pub fn null(out: &mut Vec<u8>) {
    out.push(0xf6);
}

/// Appends a link: tag 42 over a byte string that starts with 0.
pub fn link(out: &mut Vec<u8>, cid: &Cid) {
    out.extend_from_slice(&[0xd8, 0x2a, 0x58, 0x25, 0]);
    out.extend_from_slice(&cid.to_bytes());
}

/// Appends a link, or `null` where there is none.
pub fn link_or_null(out: &mut Vec<u8>, cid: Option<&Cid>) {
    match cid {
        Some(cid) => link(out, cid),
        None => null(out),
    }
}
