//! Nodes of the tree of a repository (protocol.md, section 6): one block at a time, borrowed.
//!
//! A node is `{e, l}` and an entry `{k, p, t, v}`, all fields present and no others. `l`, the subtree before the first entry, is the
//! last field.

use super::Cid;
use super::cbor::{CborError, Cursor};

/// A node whose every field was read and checked, apart from what the keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The subtree of the keys before the first entry's.
    pub left: Option<Cid>,
    /// How many entries there are.
    pub len: u64,
}

/// One entry: a key, the record that it names, and the subtree of the keys up to the next entry's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// How many bytes of the key before, in this node, this one begins with.
    pub shared: usize,
    /// The rest of the key.
    pub suffix: &'a [u8],
    /// The record.
    pub value: Cid,
    /// The subtree after the key.
    pub right: Option<Cid>,
}

impl Node {
    /// Parses a block of strict DAG-CBOR.
    ///
    /// [`CborError::WrongType`] for a block that is DAG-CBOR but not a node: another field, one that is absent, or a key that
    /// shares more bytes than the one before has.
    ///
    /// `each` has every entry as it is read: nothing says yet that the rest is good.
    #[inline]
    pub fn parse<'a>(block: &'a [u8], mut each: impl FnMut(&Entry<'a>)) -> Result<Self, CborError> {
        let mut cursor = Cursor::new(block);
        fields(&mut cursor, 2)?;
        field(&mut cursor, b'e')?;
        let len = cursor.array()?;
        let mut key_len = 0;
        for _ in 0..len {
            let entry = Entry::parse(&mut cursor)?;
            if entry.shared > key_len {
                return Err(CborError::WrongType);
            }
            // Both are at most the block's length.
            key_len = entry.shared + entry.suffix.len();
            each(&entry);
        }
        field(&mut cursor, b'l')?;
        let left = link_or_null(&mut cursor)?;
        cursor.end()?;
        Ok(Self { left, len })
    }
}

impl<'a> Entry<'a> {
    /// Reads the next entry of a node.
    #[inline]
    pub(crate) fn parse(cursor: &mut Cursor<'a>) -> Result<Self, CborError> {
        fields(cursor, 4)?;
        field(cursor, b'k')?;
        let suffix = cursor.bytes()?;
        field(cursor, b'p')?;
        let shared = usize::try_from(cursor.unsigned()?).map_err(|_| CborError::WrongType)?;
        field(cursor, b't')?;
        let right = link_or_null(cursor)?;
        field(cursor, b'v')?;
        let value = cursor.cid()?;
        Ok(Self {
            shared,
            suffix,
            value,
            right,
        })
    }
}

#[inline]
fn fields(cursor: &mut Cursor<'_>, wanted: u64) -> Result<(), CborError> {
    if cursor.map()? == wanted {
        Ok(())
    } else {
        Err(CborError::WrongType)
    }
}

#[inline]
fn field(cursor: &mut Cursor<'_>, name: u8) -> Result<(), CborError> {
    match cursor.text_bytes()? {
        [only] if *only == name => Ok(()),
        _ => Err(CborError::WrongType),
    }
}

#[inline]
fn link_or_null(cursor: &mut Cursor<'_>) -> Result<Option<Cid>, CborError> {
    if cursor.null() {
        Ok(None)
    } else {
        cursor.cid().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = &[0xa2, 0x61, b'e', 0x80, 0x61, b'l', 0xf6];

    fn one(shared: u8, suffix: &[u8]) -> Vec<u8> {
        let mut block = vec![0xa2, 0x61, b'e', 0x81, 0xa4, 0x61, b'k'];
        block.push(0x40 + suffix.len() as u8);
        block.extend_from_slice(suffix);
        block.extend_from_slice(&[0x61, b'p', shared, 0x61, b't', 0xf6, 0x61, b'v']);
        block.extend_from_slice(&[0xd8, 42, 0x58, 37, 0]);
        block.extend_from_slice(&Cid::of_dag_cbor(b"record").to_bytes());
        block.extend_from_slice(&[0x61, b'l', 0xf6]);
        block
    }

    #[test]
    fn reads_nodes() {
        let empty = Node::parse(EMPTY, |entry| panic!("{entry:?}")).unwrap();
        assert_eq!((empty.left, empty.len), (None, 0));
        let block = one(0, b"a.b.c/d");
        let mut entries = Vec::new();
        Node::parse(&block, |entry| entries.push(*entry)).unwrap();
        assert_eq!(
            entries,
            [Entry {
                shared: 0,
                suffix: b"a.b.c/d",
                value: Cid::of_dag_cbor(b"record"),
                right: None
            }]
        );
    }

    #[test]
    fn refuses_what_is_no_node() {
        let parse = |block: &[u8]| Node::parse(block, |_| {});
        let good = one(0, b"key");
        for end in 0..good.len() {
            assert!(parse(&good[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(parse(&one(1, b"key")), Err(CborError::WrongType));
        let mut surplus = EMPTY.to_vec();
        surplus.push(0);
        assert_eq!(parse(&surplus), Err(CborError::Surplus));
        let without_left = [0xa1, 0x61, b'e', 0x80];
        assert_eq!(parse(&without_left), Err(CborError::WrongType));
        let other_order = [0xa2, 0x61, b'l', 0xf6, 0x61, b'e', 0x80];
        assert_eq!(parse(&other_order), Err(CborError::WrongType));
        let many = [0xa2, 0x61, b'e', 0x9a, 0, 1, 0, 0];
        assert_eq!(parse(&many), Err(CborError::Truncated));
    }
}
