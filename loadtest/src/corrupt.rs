//! Corrupt copies of good `#commit` frames. Every class is one that a strict decoder which recomputes CIDs must refuse, and
//! none would change the final state if it were taken in by mistake in part: the good frame came before.

use ciborium::Value as Cbor;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use crate::dagcbor::Cid;
use crate::tid::Tid;

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident = $name:literal,)*) => {
        /// How a frame is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[value(rename_all = "snake_case")]
        pub enum Corruption {
            $($(#[$doc])* $class,)*
        }

        impl Corruption {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$class,)*];

            /// The name, as on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$class => $name,)*
                }
            }
        }
    };
}

classes! {
    /// The frame ends too early.
    Truncated = "truncated",
    /// A bit of a block's bytes is wrong, so that its CID is.
    FlippedByte = "flipped_byte",
    /// A head with reserved additional information.
    BadHead = "bad_head",
    /// An indefinite length.
    Indefinite = "indefinite",
    /// An integer that is longer than needed.
    NonShortest = "non_shortest",
    /// A required field is not there.
    MissingField = "missing_field",
    /// A field has another type.
    WrongType = "wrong_type",
    /// `repo` is not a DID.
    BadDid = "bad_did",
    /// The message's `rev` is not that of the commit block.
    RevMismatch = "rev_mismatch",
    /// The commit block belongs to another DID.
    DidMismatch = "did_mismatch",
    /// Bytes after the second item.
    Surplus = "surplus",
    /// Random bytes.
    Garbage = "garbage",
    /// No bytes at all.
    Empty = "empty",
    /// A `rev` ten years ahead, the same in message and commit block.
    FutureRev = "future_rev",
    /// The commit block is not in the CAR.
    MissingBlock = "missing_block",
    /// The root of the CAR is not `commit`.
    WrongRoot = "wrong_root",
    /// The CAR ends within a block.
    CutCar = "cut_car",
    /// The keys of the payload are not in canonical order.
    UnsortedKeys = "unsorted_keys",
    /// A key of the payload comes twice.
    DuplicateKey = "duplicate_key",
    /// A text that is not UTF-8.
    BadUtf8 = "bad_utf8",
    /// Lists nested deeper than any limit.
    TooDeep = "too_deep",
    /// A number that is not the frame's own (huge, small or near it), beside a wrong bit of a block.
    LyingSeq = "lying_seq",
    /// A header that calls the commit an `#info`.
    BogusInfo = "bogus_info",
    /// A header that calls the commit an error.
    BogusError = "bogus_error",
}

/// A corrupt copy of a good `#commit` frame; `now` in microseconds.
pub fn mutate(class: Corruption, good: &[u8], now: u64, rng: &mut ChaCha8Rng) -> Vec<u8> {
    use Corruption::*;
    match class {
        Truncated => good[..rng.random_range(1..good.len())].to_vec(),
        BadHead => replace_seq(good, |_, out| out.push(0x1c + (rng.next_u32() % 3) as u8)),
        NonShortest if rng.random_bool(0.5) => {
            [&good[..HEADER - 1], &[0x18, 0x01], &good[HEADER..]].concat()
        }
        NonShortest => replace_seq(good, |seq, out| match u32::try_from(seq) {
            Ok(_) => {
                out.push(0x1b);
                out.extend_from_slice(&seq.to_be_bytes());
            }
            // Nothing is longer than eight bytes: sixteen do not exist.
            Err(_) => out.push(0x1c),
        }),
        Indefinite => {
            // The header map {"t", "op"} with a break at its end.
            let mut out = vec![0xbf];
            out.extend_from_slice(&good[1..HEADER]);
            out.push(0xff);
            out.extend_from_slice(&good[HEADER..]);
            out
        }
        BogusInfo => [b"\xa2\x61t\x65#info\x62op\x01", &good[HEADER..]].concat(),
        BogusError => [b"\xa1\x62op\x20", &good[HEADER..]].concat(),
        LyingSeq => {
            let broken = mutate(FlippedByte, good, now, rng);
            let how = rng.random_range(0..4);
            let huge = rng.random_range(1 << 40..1 << 53);
            let near: u64 = rng.random_range(2..200);
            replace_seq(&broken, |seq, out| {
                let lie = match how {
                    0 => huge,
                    1 => near % 24,
                    2 => seq.saturating_sub(near).max(1),
                    _ => seq + near,
                };
                crate::dagcbor::head(out, 0, lie);
            })
        }
        Surplus => [good, &[0xf6]].concat(),
        Garbage => {
            let mut out = vec![0; rng.random_range(1..3000)];
            rng.fill_bytes(&mut out);
            out[0] = 0xff;
            out
        }
        Empty => Vec::new(),
        TooDeep => {
            let mut out = good[..HEADER].to_vec();
            out.extend(std::iter::repeat_n(0x81, 100_000));
            out.push(0xf6);
            out
        }
        BadUtf8 => {
            let at = find(good, b"drepo").map_or(0, |at| at + 6);
            let at = at + find(&good[at..], b"did:").unwrap_or_default();
            let mut out = good.to_vec();
            out[at + 8] = 0xff;
            out
        }
        _ => with_payload(good, |pairs| structure(class, pairs, now, rng)),
    }
}

/// Bytes of the header `{"t":"#commit","op":1}`.
const HEADER: usize = 15;

/// A revision that no history of these days has, in microseconds.
const LONG_AGO: u64 = 1_500_000_000_000_000;

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// Rewrites the integer after the key `seq`.
fn replace_seq(good: &[u8], write: impl FnOnce(u64, &mut Vec<u8>)) -> Vec<u8> {
    let at = find(good, b"cseq").map_or(0, |at| at + 4);
    let extra = match good[at] & 0x1f {
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => 0,
    };
    let seq = match extra {
        0 => u64::from(good[at]),
        extra => good[at + 1..=at + extra]
            .iter()
            .fold(0, |seq, byte| seq << 8 | u64::from(*byte)),
    };
    let mut out = good[..at].to_vec();
    write(seq, &mut out);
    out.extend_from_slice(&good[at + 1 + extra..]);
    out
}

type Pairs = Vec<(Cbor, Cbor)>;

/// Re-encodes the payload after a change to its map.
fn with_payload(good: &[u8], change: impl FnOnce(&mut Pairs)) -> Vec<u8> {
    let mut out = good[..HEADER].to_vec();
    let Ok(Cbor::Map(mut pairs)) = ciborium::from_reader(&good[HEADER..]) else {
        return out;
    };
    change(&mut pairs);
    // Writing to memory does not fail.
    let _ = ciborium::into_writer(&Cbor::Map(pairs), &mut out);
    out
}

fn field<'a>(pairs: &'a mut Pairs, name: &str) -> Option<&'a mut Cbor> {
    let pair = pairs
        .iter_mut()
        .find(|(key, _)| key.as_text() == Some(name));
    pair.map(|(_, value)| value)
}

fn set(pairs: &mut Pairs, name: &str, value: Cbor) {
    if let Some(field) = field(pairs, name) {
        *field = value;
    }
}

fn structure(class: Corruption, pairs: &mut Pairs, now: u64, rng: &mut ChaCha8Rng) {
    use Corruption::*;
    let mut one_of = |names: &[&'static str]| names[rng.random_range(0..names.len())];
    match class {
        MissingField => {
            let name = one_of(&["repo", "rev", "ops", "blocks", "commit"]);
            pairs.retain(|(key, _)| key.as_text() != Some(name));
        }
        WrongType => {
            let name = one_of(&["repo", "rev", "ops", "blocks", "commit", "seq"]);
            set(pairs, name, Cbor::Bool(true));
        }
        BadDid => {
            let did = one_of(&[
                "",
                "did:",
                "did:plc:",
                "DID:plc:abc",
                "not a did",
                "did:PLC:abc",
                "at://x",
            ]);
            set(pairs, "repo", Cbor::Text(did.to_owned()));
        }
        RevMismatch => set(pairs, "rev", Cbor::Text(Tid::new(LONG_AGO, 31).to_string())),
        WrongRoot => {
            let other = Cid::of(b"another commit");
            change_car(pairs, |car| car.root = other);
        }
        FlippedByte => {
            let (which, bit) = (rng.next_u64() as usize, rng.next_u64() as usize);
            change_car(pairs, |car| {
                let blocks = car.blocks.len().max(1);
                if let Some((_, block)) = car.blocks.get_mut(which % blocks) {
                    let at = bit / 8 % block.len();
                    block[at] ^= 1 << (bit % 8);
                }
            });
        }
        MissingBlock => change_car(pairs, |car| car.blocks.retain(|(cid, _)| *cid != car.root)),
        CutCar => {
            if let Some(Cbor::Bytes(blocks)) = field(pairs, "blocks") {
                blocks.truncate(blocks.len() - 5);
            }
        }
        FutureRev => {
            let rev = Tid::new(now + 10 * 365 * 86_400_000_000, 0).to_string();
            change_commit(pairs, "rev", Cbor::Text(rev.clone()));
            set(pairs, "rev", Cbor::Text(rev));
        }
        DidMismatch => change_commit(pairs, "did", Cbor::Text("did:plc:somebodyelse".into())),
        UnsortedKeys => pairs.swap(0, 1),
        DuplicateKey => {
            let again = pairs[1].clone();
            pairs.insert(1, again);
        }
        _ => {}
    }
}

struct Car {
    root: Cid,
    blocks: Vec<(Cid, Vec<u8>)>,
}

/// Reads a CAR that the simulator wrote.
fn read_car(mut bytes: &[u8]) -> Option<Car> {
    let mut section = || -> Option<&[u8]> {
        let mut len = 0;
        let mut shift = 0;
        loop {
            let (first, rest) = bytes.split_first()?;
            bytes = rest;
            len |= usize::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                break;
            }
        }
        let (section, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        Some(section)
    };
    let header = section()?;
    // {"roots": [tag 42 of 37 bytes], "version": 1}
    let at = find(header, &[0xd8, 0x2a, 0x58, 0x25, 0])? + 5;
    let root = Cid::from_bytes(header.get(at..at + 36)?)?;
    let mut blocks = Vec::new();
    while let Some(section) = section() {
        let (cid, block) = section.split_at_checked(36)?;
        blocks.push((Cid::from_bytes(cid)?, block.to_vec()));
    }
    Some(Car { root, blocks })
}

fn change_car(pairs: &mut Pairs, change: impl FnOnce(&mut Car)) {
    let Some(Cbor::Bytes(bytes)) = field(pairs, "blocks") else {
        return;
    };
    let Some(mut car) = read_car(bytes) else {
        return;
    };
    change(&mut car);
    let blocks = car
        .blocks
        .iter()
        .map(|(cid, block)| (cid, block.as_slice()));
    *bytes = crate::repo::car(&car.root, blocks);
}

/// Changes a field of the commit block and gives it its right CID everywhere: root, `commit` and block.
fn change_commit(pairs: &mut Pairs, name: &str, value: Cbor) {
    let mut new = None;
    change_car(pairs, |car| {
        let root = car.root;
        let Some((cid, block)) = car.blocks.iter_mut().find(|(cid, _)| *cid == root) else {
            return;
        };
        let Ok(Cbor::Map(mut commit)) = ciborium::from_reader(block.as_slice()) else {
            return;
        };
        set(&mut commit, name, value);
        block.clear();
        let _ = ciborium::into_writer(&Cbor::Map(commit), &mut *block);
        *cid = Cid::of(block);
        car.root = *cid;
        new = Some(*cid);
    });
    if let Some(cid) = new {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&cid.to_bytes());
        set(pairs, "commit", Cbor::Tag(42, Box::new(Cbor::Bytes(bytes))));
    }
}
