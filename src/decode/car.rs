//! CAR v1 over a borrowed slice (protocol.md, section 6): a header with the roots, then blocks in any order.
//!
//! A section is a length (unsigned LEB128) and that many bytes: the header in DAG-CBOR, or a CID and its block. Reading does not
//! hash: [`Block::verify`] does. Works for the slices in a commit as well as for the export of a whole repository.

use sha2::{Digest, Sha256};

use super::Cid;
use super::cbor::{CborError, Cursor};

/// Why bytes are not a CAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CarError {
    /// The bytes end inside a section.
    #[error("the CAR ends inside a section")]
    Truncated,
    /// A length that is not a canonical number of at most 32 bits.
    #[error("a length in the CAR is malformed")]
    BadLength,
    /// The header is not DAG-CBOR, not of version 1, or without a root.
    #[error("the header of the CAR is malformed")]
    BadHeader,
    /// A CID that is not CIDv1, dag-cbor or raw, SHA-256.
    #[error("a CID in the CAR is malformed")]
    BadCid,
}

/// A block and the CID that the CAR gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// As the CAR says it.
    pub cid: Cid,
    /// The block.
    pub data: &'a [u8],
}

impl Block<'_> {
    /// Whether the hash of the bytes is that of the CID.
    #[inline]
    pub fn verify(&self) -> bool {
        *self.cid.hash() == <[u8; 32]>::from(Sha256::digest(self.data))
    }
}

/// A CAR whose header was read.
#[derive(Debug, Clone, Copy)]
pub struct Car<'a> {
    /// The first root: the commit.
    pub root: Cid,
    /// How many roots the header lists.
    pub roots: u64,
    sections: &'a [u8],
}

impl<'a> Car<'a> {
    /// Reads the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CarError> {
        let (header, sections) = section(bytes)?;
        let (root, roots) = header_roots(header).map_err(|_| CarError::BadHeader)?;
        Ok(Self {
            root,
            roots,
            sections,
        })
    }

    /// The blocks in the order of the CAR. Ends after the first error.
    pub fn blocks(&self) -> Blocks<'a> {
        Blocks {
            rest: self.sections,
        }
    }
}

/// The first root that a header names, and how many it names.
pub fn header_roots(header: &[u8]) -> Result<(Cid, u64), CborError> {
    let mut cursor = Cursor::new(header);
    let mut root = None;
    let mut roots = 0;
    let mut version = None;
    let mut last = None;
    for _ in 0..cursor.map()? {
        match cursor.key(&mut last)? {
            b"roots" => {
                roots = cursor.array()?;
                for _ in 0..roots {
                    let cid = cursor.cid()?;
                    root.get_or_insert(cid);
                }
            }
            b"version" => version = Some(cursor.unsigned()?),
            _ => cursor.skip()?,
        }
    }
    cursor.end()?;
    match (root, version) {
        (Some(root), Some(1)) => Ok((root, roots)),
        _ => Err(CborError::WrongType),
    }
}

/// Iterates over the blocks of a [`Car`].
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, CarError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let block = self.block();
        if block.is_err() {
            self.rest = &[];
        }
        Some(block)
    }
}

impl<'a> Blocks<'a> {
    /// How many bytes are still to be read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn block(&mut self) -> Result<Block<'a>, CarError> {
        let (content, rest) = section(self.rest)?;
        self.rest = rest;
        let (cid, data) = content.split_at_checked(Cid::LEN).ok_or(CarError::BadCid)?;
        let cid = Cid::from_bytes(cid).ok_or(CarError::BadCid)?;
        Ok(Block { cid, data })
    }
}

/// Splits a section off: its content, and what follows it.
#[inline]
fn section(bytes: &[u8]) -> Result<(&[u8], &[u8]), CarError> {
    let (len, rest) = uvarint(bytes)?;
    let len = usize::try_from(len).map_err(|_| CarError::BadLength)?;
    rest.split_at_checked(len).ok_or(CarError::Truncated)
}

/// Reads an unsigned LEB128 number of at most 32 bits in its shortest form.
#[inline]
fn uvarint(bytes: &[u8]) -> Result<(u32, &[u8]), CarError> {
    let mut value: u64 = 0;
    let mut rest = bytes;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, after) = rest.split_first().ok_or(CarError::Truncated)?;
        rest = after;
        value |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            if *byte == 0 && shift > 0 {
                return Err(CarError::BadLength);
            }
            return u32::try_from(value)
                .map(|value| (value, rest))
                .map_err(|_| CarError::BadLength);
        }
    }
    Err(CarError::BadLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_canonical_and_bounded() {
        assert_eq!(uvarint(&[0x7f, 9]), Ok((127, &[9][..])));
        assert_eq!(uvarint(&[0x80, 1]), Ok((128, &[][..])));
        assert_eq!(
            uvarint(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
            Ok((u32::MAX, &[][..]))
        );
        assert_eq!(
            uvarint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(CarError::BadLength)
        );
        assert_eq!(uvarint(&[0x80, 0]), Err(CarError::BadLength));
        assert_eq!(
            uvarint(&[0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Err(CarError::BadLength)
        );
        assert_eq!(uvarint(&[0x80]), Err(CarError::Truncated));
    }
}
