//! Commit blocks: the signed root of a repository (protocol.md, section 6).

use super::cbor::{CborError, Cursor};
use super::{Cid, Tid, syntax};

/// A commit block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitBlock<'a> {
    /// The repository.
    pub did: &'a str,
    /// Its revision; absent in version 2, which only old exports have.
    pub rev: Option<Tid>,
    /// Root of the tree.
    pub data: Cid,
    /// The commit before, nearly always absent.
    pub prev: Option<Cid>,
    /// 2 or 3.
    pub version: u64,
    /// The signature, unchecked.
    pub sig: &'a [u8],
}

impl<'a> CommitBlock<'a> {
    /// Parses a block of strict DAG-CBOR. Unknown fields are passed over.
    ///
    /// [`CborError::WrongType`] for a block that is DAG-CBOR but not a commit of version 2 or 3.
    pub fn parse(block: &'a [u8]) -> Result<Self, CborError> {
        let mut cursor = Cursor::new(block);
        let (mut did, mut rev, mut data, mut prev) = (None, None, None, None);
        let (mut version, mut sig) = (None, None);
        let mut last = None;
        for _ in 0..cursor.map()? {
            match cursor.key(&mut last)? {
                b"did" => did = Some(cursor.text()?),
                b"rev" => {
                    let text = cursor.text_bytes()?;
                    rev = Some(Tid::parse(text).ok_or(CborError::WrongType)?);
                }
                b"data" => data = Some(cursor.cid()?),
                b"prev" => {
                    prev = if cursor.null() {
                        None
                    } else {
                        Some(cursor.cid()?)
                    }
                }
                b"version" => version = Some(cursor.unsigned()?),
                b"sig" => sig = Some(cursor.bytes()?),
                _ => cursor.skip()?,
            }
        }
        cursor.end()?;
        let (Some(did), Some(data), Some(version), Some(sig)) = (did, data, version, sig) else {
            return Err(CborError::WrongType);
        };
        let revision_fits = matches!((version, rev), (3, Some(_)) | (2, _));
        if !revision_fits || !syntax::is_did(did) {
            return Err(CborError::WrongType);
        }
        Ok(Self {
            did,
            rev,
            data,
            prev,
            version,
            sig,
        })
    }
}
