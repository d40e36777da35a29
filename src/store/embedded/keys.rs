//! Keys: how DIDs, collections, record keys and versions become bytes.
//!
//! Most DIDs and record keys are base32 numbers, which pack into half their length. The rest stays text. Each key part
//! says by its first byte which it is: [`TEXT`], the text, a zero byte; or [`PACKED`] and the number, big endian. Inside
//! each form the order of bytes is the order of texts; [`Packing::ceiling`] finds where a text of one form would stand
//! among those of the other, so that a listing merges the two ranges. A collection is an interned number, or text once
//! there are too many.
//!
//! Versions are stored inverted, so that of all rows with one prefix the first is the newest. The rank of a record's
//! row orders as (version, delete over write, `rev`):
//!
//! ```text
//! !u64(version << 11 | delete << 10 | clock)  !class  [!u64(rev)]
//! ```
//!
//! A commit's `rev` has the microseconds of its version (class 1), so the clock bits complete it. Where they differ
//! (snapshots) the whole `rev` follows: an older one (class 0, clock 0) stands behind all commits of that version, a later
//! one (class 2, clock 1023) before all.

use std::cmp::Ordering;

use crate::decode::Tid;

/// First byte of a part that is text.
pub(super) const TEXT: u8 = 1;
/// First byte of a part that is a packed number.
pub(super) const PACKED: u8 = 2;
/// First byte of a collection that is text.
const COLLECTION_TEXT: u8 = 0xff;
/// First byte of a collection number of three bytes.
const COLLECTION_WIDE: u8 = 0x80;

/// Digits in the order of their texts.
const ALPHABET: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";

/// Texts of one shape that pack into a number.
pub(super) struct Packing {
    prefix: &'static str,
    digits: usize,
    bits: u32,
    bytes: usize,
}

/// `did:plc:` and 24 digits.
pub(super) const DID: Packing = Packing {
    prefix: "did:plc:",
    digits: 24,
    bits: 120,
    bytes: 15,
};

/// TIDs.
pub(super) const RKEY: Packing = Packing {
    prefix: "",
    digits: 13,
    bits: 63,
    bytes: 8,
};

impl Packing {
    /// Appends a text that has neither zero bytes nor is empty.
    pub(super) fn push(&self, key: &mut Vec<u8>, text: &str) {
        match self.number(text) {
            Some(number) => self.push_number(key, number),
            None => push_text(key, TEXT, text),
        }
    }

    /// Splits a key behind its first part.
    pub(super) fn split<'a>(&self, key: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let len = match *key.first()? {
            TEXT => key.iter().position(|byte| *byte == 0)? + 1,
            PACKED => 1 + self.bytes,
            _ => return None,
        };
        key.split_at_checked(len)
    }

    /// The text of a part.
    pub(super) fn text(&self, part: &[u8]) -> Option<String> {
        match part {
            [TEXT, text @ .., 0] => String::from_utf8(text.to_vec()).ok(),
            [PACKED, number @ ..] if number.len() == self.bytes => {
                let number = number
                    .iter()
                    .fold(0, |all, byte| all << 8 | u128::from(*byte));
                Some(self.spell(number))
            }
            _ => None,
        }
    }

    /// Where the texts of one form that are greater than `text` (or equal to it, with `inclusive`) begin; `None` if there
    /// can't be any.
    pub(super) fn lower_bound(&self, form: u8, text: &str, inclusive: bool) -> Option<Vec<u8>> {
        if form == TEXT {
            let mut key = vec![TEXT];
            key.extend_from_slice(text.as_bytes());
            key.push(u8::from(!inclusive));
            return Some(key);
        }
        let mut number = self.ceiling(text)?;
        if !inclusive && self.number(text).is_some() {
            number += 1;
        }
        let mut key = Vec::new();
        self.push_number(&mut key, number);
        (number >> self.bits == 0).then_some(key)
    }

    fn number(&self, text: &str) -> Option<u128> {
        let digits = text.strip_prefix(self.prefix)?.as_bytes();
        if digits.len() != self.digits {
            return None;
        }
        let mut number = 0;
        for byte in digits {
            number = number << 5 | digit(*byte)?;
        }
        (number >> self.bits == 0).then_some(number)
    }

    fn spell(&self, number: u128) -> String {
        let mut text = self.prefix.to_owned();
        for place in (0..self.digits).rev() {
            let digit = usize::try_from(number >> (5 * place) & 31).unwrap_or_default();
            text.push(char::from(ALPHABET.get(digit).copied().unwrap_or(b'2')));
        }
        text
    }

    fn push_number(&self, key: &mut Vec<u8>, number: u128) {
        key.push(PACKED);
        let bytes = number.to_be_bytes();
        key.extend_from_slice(bytes.get(16 - self.bytes..).unwrap_or_default());
    }

    /// The smallest number whose text is not less than `text`.
    fn ceiling(&self, text: &str) -> Option<u128> {
        let Some(rest) = text.strip_prefix(self.prefix) else {
            return (text < self.prefix).then_some(0);
        };
        let mut number: u128 = 0;
        let mut bytes = rest.bytes();
        for place in (0..self.digits).rev() {
            let Some(byte) = bytes.next() else {
                return self.fitting(number << (5 * (place + 1)));
            };
            if let Some(digit) = digit(byte) {
                number = number << 5 | digit;
                continue;
            }
            let next = ALPHABET.iter().position(|letter| *letter > byte);
            let next = next.and_then(|digit| u128::try_from(digit).ok());
            let number = match next {
                Some(digit) => (number << 5 | digit) << (5 * place),
                None => (number + 1) << (5 * (place + 1)),
            };
            return self.fitting(number);
        }
        self.fitting(number + u128::from(bytes.next().is_some()))
    }

    fn fitting(&self, number: u128) -> Option<u128> {
        (number >> self.bits == 0).then_some(number)
    }
}

fn digit(byte: u8) -> Option<u128> {
    match byte {
        b'2'..=b'7' => Some(u128::from(byte - b'2')),
        b'a'..=b'z' => Some(u128::from(byte - b'a') + 6),
        _ => None,
    }
}

fn push_text(key: &mut Vec<u8>, tag: u8, text: &str) {
    key.push(tag);
    key.extend_from_slice(text.as_bytes());
    key.push(0);
}

/// The bytes that stand for an interned collection.
pub(super) fn collection_number(id: u16) -> Vec<u8> {
    match u8::try_from(id) {
        Ok(id) if id < COLLECTION_WIDE => vec![id],
        _ => {
            let mut code = vec![COLLECTION_WIDE];
            code.extend_from_slice(&id.to_be_bytes());
            code
        }
    }
}

/// The bytes that stand for a collection that is not interned.
pub(super) fn collection_text(nsid: &str) -> Vec<u8> {
    let mut code = Vec::with_capacity(nsid.len() + 2);
    push_text(&mut code, COLLECTION_TEXT, nsid);
    code
}

/// A collection as it was read from a key.
pub(super) enum CollectionCode<'a> {
    /// Its number.
    Number(u16),
    /// Its name.
    Text(&'a [u8]),
}

/// Splits a key behind the collection that it starts with.
pub(super) fn split_collection(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = match *key.first()? {
        COLLECTION_TEXT => key.iter().position(|byte| *byte == 0)? + 1,
        COLLECTION_WIDE => 3,
        _ => 1,
    };
    key.split_at_checked(len)
}

/// What the bytes of a collection say.
pub(super) fn read_collection(code: &[u8]) -> Option<CollectionCode<'_>> {
    match code {
        [COLLECTION_TEXT, text @ .., 0] => Some(CollectionCode::Text(text)),
        [COLLECTION_WIDE, high, low] => {
            Some(CollectionCode::Number(u16::from_be_bytes([*high, *low])))
        }
        [id] if *id < COLLECTION_WIDE => Some(CollectionCode::Number(u16::from(*id))),
        _ => None,
    }
}

/// Appends a number so that greater ones come first.
pub(super) fn push_inverted(key: &mut Vec<u8>, number: u64) {
    key.extend_from_slice(&(!number).to_be_bytes());
}

/// Reads what [`push_inverted`] wrote.
pub(super) fn take_inverted(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk::<8>()?;
    Some((!u64::from_be_bytes(*number), rest))
}

/// Appends bytes so that greater ones come first, also where one is the start of the other.
pub(super) fn push_inverted_bytes(key: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        key.push(!byte);
        if *byte == 0 {
            key.push(0);
        }
    }
    key.extend_from_slice(&[0xff, 0xff]);
}

/// Reads what [`push_inverted_bytes`] wrote.
pub(super) fn take_inverted_bytes(mut key: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut bytes = Vec::new();
    loop {
        key = match key {
            [0xff, 0xff, rest @ ..] => return Some((bytes, rest)),
            [0xff, 0, rest @ ..] => {
                bytes.push(0);
                rest
            }
            [0xff, ..] | [] => return None,
            [byte, rest @ ..] => {
                bytes.push(!byte);
                rest
            }
        };
    }
}

/// Appends a record key so that TIDs come first and greater ones before lesser ones.
pub(super) fn push_newest_rkey(key: &mut Vec<u8>, rkey: &str) {
    match RKEY.number(rkey) {
        Some(number) => {
            key.push(TEXT);
            push_inverted(key, u64::try_from(number).unwrap_or_default());
        }
        None => {
            key.push(PACKED);
            push_inverted_bytes(key, rkey.as_bytes());
        }
    }
}

/// Reads what [`push_newest_rkey`] wrote.
pub(super) fn take_newest_rkey(key: &[u8]) -> Option<(String, &[u8])> {
    match key.split_first()? {
        (&TEXT, rest) => {
            let (number, rest) = take_inverted(rest)?;
            Some((RKEY.spell(u128::from(number)), rest))
        }
        (&PACKED, rest) => {
            let (bytes, rest) = take_inverted_bytes(rest)?;
            Some((String::from_utf8(bytes).ok()?, rest))
        }
        _ => None,
    }
}

/// What decides which write to a record wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rank {
    /// Microseconds.
    pub(super) version: u64,
    /// Whether the write deletes.
    pub(super) delete: bool,
    /// The `rev` that it was seen at.
    pub(super) rev: Tid,
}

/// Class of a `rev` that is older than its version.
const OLDER: u8 = 0;
/// Class of a `rev` of the version's microsecond.
const SAME: u8 = 1;
/// Class of a `rev` that is later than its version.
const LATER: u8 = 2;

impl Rank {
    /// Appends the rank so that greater ones come first.
    pub(super) fn push(&self, key: &mut Vec<u8>) {
        let (class, clock) = match self.rev.micros().cmp(&self.version) {
            Ordering::Less => (OLDER, 0),
            Ordering::Equal => (SAME, self.rev.clock()),
            Ordering::Greater => (LATER, 1023),
        };
        let rank = self.version << 11 | u64::from(self.delete) << 10 | u64::from(clock);
        push_inverted(key, rank);
        key.push(!class);
        if class != SAME {
            push_inverted(key, self.rev.to_u64());
        }
    }

    /// Reads what [`Rank::push`] wrote.
    pub(super) fn take(key: &[u8]) -> Option<(Self, &[u8])> {
        let (rank, rest) = take_inverted(key)?;
        let (class, rest) = rest.split_first()?;
        let version = rank >> 11;
        let clock = u16::try_from(rank & 1023).ok()?;
        let (rev, rest) = match !class {
            SAME => (Tid::new(version, clock), rest),
            OLDER | LATER => {
                let (rev, rest) = take_inverted(rest)?;
                (Tid::from_u64(rev)?, rest)
            }
            _ => return None,
        };
        let delete = rank >> 10 & 1 == 1;
        Some((
            Self {
                version,
                delete,
                rev,
            },
            rest,
        ))
    }
}

/// The first key behind all that start with `prefix`; `None` if there is none.
pub(super) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if let Some(next) = last.checked_add(1) {
            key.push(next);
            return Some(key);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dids() -> impl Strategy<Value = String> {
        prop_oneof![
            "did:plc:[2-7a-z]{24}",
            "did:plc:[2-4]{23}[2-7a-z]",
            "did:plc:[0-9A-Za-z:.~_-]{1,30}",
            "did:(web|key|plb|plc|pld):[a-c2]{1,3}",
            "[a-z2]{1,4}",
        ]
    }

    fn rkeys() -> impl Strategy<Value = String> {
        prop_oneof![
            "[2-7a-b][2-7a-z]{12}",
            "[2-7a-z]{13}",
            "3[2]{11}[2-7a-z]",
            "[0-9A-Za-z:.~_-]{1,15}",
            "self",
        ]
    }

    fn check(packing: &Packing, a: &str, b: &str) {
        let (mut key_a, mut key_b) = (Vec::new(), Vec::new());
        packing.push(&mut key_a, a);
        packing.push(&mut key_b, b);
        assert_eq!(packing.text(&key_a).as_deref(), Some(a));
        if key_a[0] == key_b[0] {
            assert_eq!(key_a.cmp(&key_b), a.cmp(b), "{a} {b}");
        }
        let (part, rest) = packing.split(&key_a).unwrap();
        assert_eq!((part, rest.len()), (&key_a[..], 0));
        // Seen from `b`, `a` stands where its text says, whatever the forms.
        let reached = |inclusive| {
            let bound = packing.lower_bound(key_a[0], b, inclusive);
            bound.is_some_and(|bound| key_a >= bound)
        };
        assert_eq!(reached(true), a >= b, "{a} >= {b}");
        assert_eq!(reached(false), a > b, "{a} > {b}");
    }

    proptest! {
        #[test]
        fn packing_keeps_the_order_of_texts(a in dids(), b in dids(), c in rkeys(), d in rkeys()) {
            check(&DID, &a, &b);
            check(&DID, &b, &a);
            check(&DID, &a, &a);
            check(&RKEY, &c, &d);
            check(&RKEY, &d, &c);
            check(&RKEY, &c, &c);
        }

        #[test]
        fn newest_record_keys_come_first(a in rkeys(), b in rkeys()) {
            let key = |rkey: &str| {
                let mut key = Vec::new();
                push_newest_rkey(&mut key, rkey);
                key
            };
            let whole = key(&a);
            prop_assert_eq!(take_newest_rkey(&whole), Some((a.clone(), &[][..])));
            let odd = |rkey: &str| Tid::parse(rkey.as_bytes()).is_none();
            prop_assert_eq!(key(&a).cmp(&key(&b)), (odd(&a), &b).cmp(&(odd(&b), &a)));
        }

        #[test]
        fn greater_ranks_come_first(
            a in (0u64..4, any::<bool>(), 0u64..4, prop_oneof![Just(0u16), Just(1), Just(1023)]),
            b in (0u64..4, any::<bool>(), 0u64..4, prop_oneof![Just(0u16), Just(1), Just(1023)]),
        ) {
            let rank = |(version, delete, micros, clock)| Rank { version, delete, rev: Tid::new(micros, clock) };
            let key = |rank: Rank| {
                let mut key = Vec::new();
                rank.push(&mut key);
                key.extend_from_slice(b"tail");
                key
            };
            let (a, b) = (rank(a), rank(b));
            let whole = key(a);
            prop_assert_eq!(Rank::take(&whole), Some((a, &b"tail"[..])));
            let order = |rank: Rank| (rank.version, rank.delete, rank.rev);
            prop_assert_eq!(key(a).cmp(&key(b)), order(b).cmp(&order(a)));
        }

        #[test]
        fn inverted_bytes_come_greatest_first(
            a in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..5),
            b in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..5),
        ) {
            let key = |bytes: &[u8]| {
                let mut key = Vec::new();
                push_inverted_bytes(&mut key, bytes);
                key
            };
            let whole = key(&a);
            prop_assert_eq!(take_inverted_bytes(&whole), Some((a.clone(), &[][..])));
            prop_assert_eq!(key(&a).cmp(&key(&b)), b.cmp(&a));
        }
    }

    #[test]
    fn collections_are_read_back() {
        for id in [0, 1, 127, 128, 255, 256, u16::MAX] {
            let mut key = collection_number(id);
            let code = key.clone();
            key.extend_from_slice(&[1, 2]);
            let (part, rest) = split_collection(&key).unwrap();
            assert_eq!((part, rest), (&code[..], &[1, 2][..]));
            assert!(
                matches!(read_collection(part), Some(CollectionCode::Number(read)) if read == id)
            );
        }
        let code = collection_text("com.example.thing");
        let (part, _) = split_collection(&code).unwrap();
        assert!(matches!(
            read_collection(part),
            Some(CollectionCode::Text(b"com.example.thing"))
        ));
    }
}
