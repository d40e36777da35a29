//! Content identifiers as AT Protocol uses them: CIDv1, dag-cbor or raw, SHA-256 (protocol.md, section 6).

use std::fmt;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Codec of dag-cbor: commits, tree nodes, records.
pub const DAG_CBOR: u8 = 0x71;
/// Codec of raw bytes: blobs.
pub const RAW: u8 = 0x55;

/// A CID: the codec and the SHA-256 of the block. 36 bytes in binary form, 59 characters as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    codec: u8,
    hash: [u8; 32],
}

impl Cid {
    /// Length of the binary form.
    pub const LEN: usize = 36;
    /// Length of the text form.
    pub const TEXT_LEN: usize = 59;

    /// A CID of its codec ([`DAG_CBOR`] or [`RAW`]) and hash.
    pub fn new(codec: u8, hash: [u8; 32]) -> Self {
        Self { codec, hash }
    }

    /// The CID of a block of DAG-CBOR.
    pub fn of_dag_cbor(block: &[u8]) -> Self {
        Self::new(DAG_CBOR, Sha256::digest(block).into())
    }

    /// Parses the 36 bytes of the binary form; `None` if they are anything but CIDv1, dag-cbor or raw, sha2-256.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [1, codec @ (DAG_CBOR | RAW), 0x12, 0x20, hash @ ..] => {
                Some(Self::new(*codec, hash.try_into().ok()?))
            }
            _ => None,
        }
    }

    /// The 36 bytes of the binary form.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (head, hash) = bytes.split_at_mut(4);
        head.copy_from_slice(&[1, self.codec, 0x12, 0x20]);
        hash.copy_from_slice(&self.hash);
        bytes
    }

    /// Parses the text form: `b` and lowercase unpadded base32.
    pub fn parse(text: &str) -> Option<Self> {
        let base32 = text.strip_prefix('b')?;
        if text.len() != Self::TEXT_LEN || base32.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let bytes = BASE32_NOPAD
            .decode(base32.to_ascii_uppercase().as_bytes())
            .ok()?;
        Self::from_bytes(&bytes)
    }

    /// The 59 characters of the text form, ASCII.
    pub fn encode(&self) -> [u8; Self::TEXT_LEN] {
        let bytes = self.to_bytes();
        let (groups, rest) = bytes.as_chunks::<5>();
        let mut text = [b'b'; Self::TEXT_LEN];
        let (_, digits) = text.split_at_mut(1);
        let last = rest.first().copied().unwrap_or_default();
        let groups = groups.iter().copied().chain([[last, 0, 0, 0, 0]]);
        for (to, [a, b, c, d, e]) in digits.chunks_mut(8).zip(groups) {
            let bits = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
            for (digit, shift) in to.iter_mut().zip([35, 30, 25, 20, 15, 10, 5, 0]) {
                let value = (bits >> shift & 31) as u8;
                *digit = if value < 26 {
                    b'a' + value
                } else {
                    b'2' + value - 26
                };
            }
        }
        text
    }

    /// The codec: [`DAG_CBOR`] or [`RAW`].
    pub fn codec(&self) -> u8 {
        self.codec
    }

    /// The SHA-256 of the block.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).unwrap_or_default())
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for seed in 0..=255u8 {
            let cid = Cid::of_dag_cbor(&[seed]);
            let text = cid.to_string();
            let expected = BASE32_NOPAD.encode(&cid.to_bytes()).to_ascii_lowercase();
            assert_eq!(text, format!("b{expected}"));
            assert_eq!(Cid::parse(&text), Some(cid));
            assert_eq!(Cid::from_bytes(&cid.to_bytes()), Some(cid));
        }
        let empty_tree = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm";
        assert_eq!(
            Cid::parse(empty_tree).map(|cid| cid.to_string()).as_deref(),
            Some(empty_tree)
        );
        assert_eq!(Cid::parse(&empty_tree.to_ascii_uppercase()), None);
        assert_eq!(Cid::parse(""), None);
    }
}
