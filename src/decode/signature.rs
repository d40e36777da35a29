//! Signatures of commits (protocol.md, sections 6 and 7): 64 bytes, r and s, low-S on both curves, over the SHA-256 of the
//! commit's DAG-CBOR without the field `sig`.

use k256::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest, Sha256};

use super::cbor::{CborError, Cursor};

/// A public key that signs commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningKey {
    /// secp256k1, compressed point (SEC 1).
    K256([u8; 33]),
    /// NIST P-256, compressed point (SEC 1).
    P256([u8; 33]),
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SignatureError {
    /// The block is not a map of DAG-CBOR with a field `sig`.
    #[error("the block has no signature to take out")]
    NotSigned,
    /// Not 64 bytes of two numbers within the curve's order, such as DER.
    #[error("the signature is not r and s in 64 bytes")]
    Malformed,
    /// The greater of the two values that s may have.
    #[error("the signature is not low-S")]
    HighS,
    /// The key is not a point of its curve.
    #[error("the key is not a point of its curve")]
    BadKey,
    /// Another key, or another commit.
    #[error("the key did not sign this")]
    Mismatch,
}

/// Checks that `key` signed a commit block; `sig` is the block's field of that name.
pub fn verify(commit_block: &[u8], sig: &[u8], key: &SigningKey) -> Result<(), SignatureError> {
    let hash = unsigned_hash(commit_block).ok_or(SignatureError::NotSigned)?;
    verify_hash(&hash, sig, key)
}

/// Checks that `key` signed something with this SHA-256.
pub fn verify_hash(hash: &[u8; 32], sig: &[u8], key: &SigningKey) -> Result<(), SignatureError> {
    match key {
        SigningKey::K256(point) => {
            use k256::ecdsa::{Signature, VerifyingKey};
            let signature = Signature::from_slice(sig).map_err(|_| SignatureError::Malformed)?;
            if signature.normalize_s() != signature {
                return Err(SignatureError::HighS);
            }
            VerifyingKey::from_sec1_bytes(point)
                .map_err(|_| SignatureError::BadKey)?
                .verify_prehash(hash, &signature)
        }
        SigningKey::P256(point) => {
            use p256::ecdsa::{Signature, VerifyingKey};
            let signature = Signature::from_slice(sig).map_err(|_| SignatureError::Malformed)?;
            if signature.normalize_s() != signature {
                return Err(SignatureError::HighS);
            }
            VerifyingKey::from_sec1_bytes(point)
                .map_err(|_| SignatureError::BadKey)?
                .verify_prehash(hash, &signature)
        }
    }
    .map_err(|_| SignatureError::Mismatch)
}

/// The SHA-256 of a commit without `sig`. In canonical DAG-CBOR that is the same bytes without the field, under a head that
/// counts one entry less.
fn unsigned_hash(block: &[u8]) -> Option<[u8; 32]> {
    let mut cursor = Cursor::new(block);
    let fields = cursor.map().ok()?;
    let body = cursor.rest();
    let sig = field_span(cursor, fields, b"sig").ok()??;
    // A commit has six fields: a map that needs a longer head is none.
    let unsigned = u8::try_from(fields - 1).ok().filter(|len| *len < 24)?;
    let mut hash = Sha256::new();
    hash.update([0xa0 | unsigned]);
    hash.update(body.get(..sig.start)?);
    hash.update(body.get(sig.end..)?);
    Some(hash.finalize().into())
}

/// Where in the body of a map a field is, with its name.
fn field_span(
    mut cursor: Cursor<'_>,
    fields: u64,
    name: &[u8],
) -> Result<Option<std::ops::Range<usize>>, CborError> {
    let whole = cursor.rest().len();
    let mut found = None;
    let mut last = None;
    for _ in 0..fields {
        let start = whole - cursor.rest().len();
        let key = cursor.key(&mut last)?;
        cursor.skip()?;
        if key == name {
            found = Some(start..whole - cursor.rest().len());
        }
    }
    cursor.end()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_cut_out_and_the_head_counts_one_less() {
        let signed = [
            0xa2, 0x63, b's', b'i', b'g', 0x41, 9, 0x64, b'd', b'a', b't', b'a', 0x07,
        ];
        let unsigned = [0xa1, 0x64, b'd', b'a', b't', b'a', 0x07];
        let expected: [u8; 32] = Sha256::digest(unsigned).into();
        assert_eq!(unsigned_hash(&signed), Some(expected));
        assert_eq!(unsigned_hash(&unsigned), None);
        assert_eq!(unsigned_hash(&signed[..12]), None);
        assert_eq!(unsigned_hash(&[0xa0]), None);
        assert_eq!(unsigned_hash(&[]), None);
    }

    #[test]
    fn says_what_is_wrong() {
        let hash = [7; 32];
        let point = SigningKey::K256([2; 33]);
        assert_eq!(
            verify_hash(&hash, &[1; 63], &point),
            Err(SignatureError::Malformed)
        );
        assert_eq!(
            verify_hash(&hash, &[0; 64], &point),
            Err(SignatureError::Malformed)
        );
        assert_eq!(
            verify_hash(&hash, &[0x80; 64], &point),
            Err(SignatureError::HighS)
        );
        assert_eq!(
            verify_hash(&hash, &[1; 64], &SigningKey::K256([9; 33])),
            Err(SignatureError::BadKey)
        );
        assert_eq!(
            verify_hash(&hash, &[1; 64], &SigningKey::P256([9; 33])),
            Err(SignatureError::BadKey)
        );
        assert_eq!(
            verify(&[0xa0], &[1; 64], &point),
            Err(SignatureError::NotSigned)
        );
    }
}
