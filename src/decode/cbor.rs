//! A cursor over borrowed DAG-CBOR (protocol.md, section 6): nothing is copied, nothing is allocated.
//!
//! Strict: definite lengths, shortest heads, text keys unique and sorted by length and then bytes, tag 42 alone, `false`, `true`
//! and `null` alone, valid UTF-8, floats only as finite 64-bit ones. Containers nest at most [`MAX_DEPTH`] deep and
//! hold at most [`MAX_ITEMS`] elements.

use super::Cid;

/// How deep containers may nest.
pub const MAX_DEPTH: usize = 32;
/// How many elements (entries of a map) one container may hold.
pub const MAX_ITEMS: u64 = 131_072;

pub(crate) const UNSIGNED: u8 = 0;
pub(crate) const NEGATIVE: u8 = 1;
pub(crate) const BYTES: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const ARRAY: u8 = 4;
pub(crate) const MAP: u8 = 5;
pub(crate) const TAG: u8 = 6;

const NULL: u8 = 0xf6;

/// Why bytes are not the DAG-CBOR that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CborError {
    /// The bytes end inside an item.
    #[error("the bytes end inside an item")]
    Truncated,
    /// Bytes follow where the end was expected.
    #[error("bytes are left over")]
    Surplus,
    /// A head that is reserved, of indefinite length, or longer than it needs to be.
    #[error("a head is not the shortest definite one")]
    BadHead,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    BadUtf8,
    /// Keys out of order, duplicate, or not text.
    #[error("map keys are not unique text in canonical order")]
    BadKey,
    /// A tag other than 42, or something else than a CID under it.
    #[error("a tag is not that of a CID, or holds none")]
    BadTag,
    /// `undefined`, another simple value, or a float that is not finite, negative zero or not of 64 bits.
    #[error("a value is outside DAG-CBOR")]
    BadValue,
    /// Well-formed, but not of the type that was expected.
    #[error("a value is of an unexpected type")]
    WrongType,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than 32")]
    TooDeep,
    /// More elements than [`MAX_ITEMS`].
    #[error("a container has more than 131072 elements")]
    TooMany,
}

/// Checks that `bytes` are exactly one item of DAG-CBOR.
pub fn check(bytes: &[u8]) -> Result<(), CborError> {
    let mut cursor = Cursor::new(bytes);
    cursor.skip()?;
    cursor.end()
}

/// Reads items from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Requires that everything was read.
    pub fn end(&self) -> Result<(), CborError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CborError::Surplus)
        }
    }

    /// The first byte of the next item, not read.
    pub fn peek_byte(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    #[inline]
    fn take(&mut self, len: u64) -> Result<&'a [u8], CborError> {
        let len = usize::try_from(len).map_err(|_| CborError::Truncated)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(CborError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(CborError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Reads a head: the major type (0 to 6) and its argument, in its shortest form.
    #[inline]
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let (first, rest) = self.rest.split_first().ok_or(CborError::Truncated)?;
        self.rest = rest;
        let major = first >> 5;
        if major == 7 {
            return Err(CborError::WrongType);
        }
        let info = first & 31;
        if info < 24 {
            return Ok((major, u64::from(info)));
        }
        Ok((major, self.long_argument(info)?))
    }

    fn long_argument(&mut self, info: u8) -> Result<u64, CborError> {
        let (value, least) = match info {
            24 => (u64::from(u8::from_be_bytes(self.take_array()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.take_array()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.take_array()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.take_array()?), 1 << 32),
            _ => return Err(CborError::BadHead),
        };
        if value < least {
            Err(CborError::BadHead)
        } else {
            Ok(value)
        }
    }

    /// Reads a head of the given major type. Leaves what is of another type unread.
    #[inline]
    fn expect(&mut self, major: u8) -> Result<u64, CborError> {
        match self.rest.first() {
            None => Err(CborError::Truncated),
            Some(first) if first >> 5 != major => Err(CborError::WrongType),
            Some(_) => Ok(self.head()?.1),
        }
    }

    /// Reads a map's head: the number of its entries.
    #[inline]
    pub fn map(&mut self) -> Result<u64, CborError> {
        let len = self.expect(MAP)?;
        self.count(len, 2)
    }

    /// Reads an array's head: the number of its elements.
    #[inline]
    pub fn array(&mut self) -> Result<u64, CborError> {
        let len = self.expect(ARRAY)?;
        self.count(len, 1)
    }

    /// Refuses counts that are too great, or cannot fit in what is left at one byte an item.
    #[inline]
    fn count(&self, len: u64, width: u64) -> Result<u64, CborError> {
        if len > MAX_ITEMS {
            return Err(CborError::TooMany);
        }
        if len * width > self.rest.len() as u64 {
            return Err(CborError::Truncated);
        }
        Ok(len)
    }

    /// Reads text.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str, CborError> {
        std::str::from_utf8(self.text_bytes()?).map_err(|_| CborError::BadUtf8)
    }

    /// Reads text whose caller takes nothing but ASCII, and so checks the UTF-8.
    #[inline]
    pub(crate) fn text_bytes(&mut self) -> Result<&'a [u8], CborError> {
        let len = self.expect(TEXT)?;
        self.take(len)
    }

    /// Reads a byte string.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let len = self.expect(BYTES)?;
        self.take(len)
    }

    /// Reads an unsigned integer.
    #[inline]
    pub fn unsigned(&mut self) -> Result<u64, CborError> {
        self.expect(UNSIGNED)
    }

    /// Reads an integer within signed 64-bit.
    pub fn integer(&mut self) -> Result<i64, CborError> {
        let negative = self.peek_byte().is_some_and(|byte| byte >> 5 == NEGATIVE);
        let value = self.expect(if negative { NEGATIVE } else { UNSIGNED })?;
        let value = i64::try_from(value).map_err(|_| CborError::WrongType)?;
        Ok(if negative { -1 - value } else { value })
    }

    /// Reads `true` or `false`.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, CborError> {
        let value = match self.rest.first() {
            Some(0xf4) => false,
            Some(0xf5) => true,
            Some(_) => return Err(CborError::WrongType),
            None => return Err(CborError::Truncated),
        };
        self.take(1)?;
        Ok(value)
    }

    /// Reads `null` if it is next.
    #[inline]
    pub fn null(&mut self) -> bool {
        match self.rest.split_first() {
            Some((&NULL, rest)) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Reads a CID: tag 42 over a byte string with a leading zero.
    #[inline]
    pub fn cid(&mut self) -> Result<Cid, CborError> {
        const HEAD: [u8; 5] = [0xd8, 42, 0x58, 37, 0];
        if let Some((head, rest)) = self.rest.split_first_chunk::<5>()
            && *head == HEAD
        {
            let (cid, rest) = rest
                .split_at_checked(Cid::LEN)
                .ok_or(CborError::Truncated)?;
            self.rest = rest;
            return Cid::from_bytes(cid).ok_or(CborError::BadTag);
        }
        match self.expect(TAG)? {
            42 => match self.bytes()? {
                [0, cid @ ..] => Cid::from_bytes(cid).ok_or(CborError::BadTag),
                _ => Err(CborError::BadTag),
            },
            _ => Err(CborError::BadTag),
        }
    }

    /// Reads a key of a map and checks that it follows `last`, the key before.
    #[inline]
    pub fn key(&mut self, last: &mut Option<&'a [u8]>) -> Result<&'a [u8], CborError> {
        let len = self.expect(TEXT).map_err(|error| match error {
            CborError::WrongType => CborError::BadKey,
            other => other,
        })?;
        let key = self.take(len)?;
        if !last.is_none_or(|last| precedes(last, key)) {
            return Err(CborError::BadKey);
        }
        *last = Some(key);
        Ok(key)
    }

    /// Checks an item and passes it over.
    #[inline]
    pub fn skip(&mut self) -> Result<(), CborError> {
        self.skip_nested(MAX_DEPTH)
    }

    /// Recursion ends at [`MAX_DEPTH`].
    fn skip_nested(&mut self, depth: usize) -> Result<(), CborError> {
        let first = self.peek_byte().ok_or(CborError::Truncated)?;
        match first >> 5 {
            UNSIGNED | NEGATIVE => self.head().map(drop),
            BYTES => self.bytes().map(drop),
            TEXT => self.text().map(drop),
            ARRAY => {
                let inner = depth.checked_sub(1).ok_or(CborError::TooDeep)?;
                let len = self.array()?;
                (0..len).try_for_each(|_| self.skip_nested(inner))
            }
            MAP => {
                let inner = depth.checked_sub(1).ok_or(CborError::TooDeep)?;
                let len = self.map()?;
                let mut last = None;
                (0..len).try_for_each(|_| {
                    let key = self.key(&mut last)?;
                    std::str::from_utf8(key).map_err(|_| CborError::BadUtf8)?;
                    self.skip_nested(inner)
                })
            }
            TAG => self.cid().map(drop),
            _ => self.skip_simple(first),
        }
    }

    fn skip_simple(&mut self, first: u8) -> Result<(), CborError> {
        self.take(1)?;
        match first {
            0xf4..=0xf6 => Ok(()),
            0xfb => {
                let float = f64::from_be_bytes(self.take_array()?);
                if float.is_finite() && (float != 0.0 || float.is_sign_positive()) {
                    Ok(())
                } else {
                    Err(CborError::BadValue)
                }
            }
            _ => Err(CborError::BadValue),
        }
    }
}

/// The canonical order of keys: by length, then by bytes.
#[inline]
pub(crate) fn precedes(left: &[u8], right: &[u8]) -> bool {
    left.len() < right.len() || (left.len() == right.len() && left < right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_nests_too_deep_or_claims_too_much() {
        let mut deep = vec![0x81; MAX_DEPTH];
        deep.push(0);
        assert_eq!(check(&deep), Ok(()));
        deep.insert(0, 0x81);
        assert_eq!(check(&deep), Err(CborError::TooDeep));
        assert_eq!(check(&[0x9a, 0, 2, 0, 1]), Err(CborError::TooMany));
        assert_eq!(check(&[0x9a, 0, 1, 0, 0]), Err(CborError::Truncated));
        assert_eq!(
            check(&[0x5b, 255, 255, 255, 255, 255, 255, 255, 255]),
            Err(CborError::Truncated)
        );
    }

    #[test]
    fn reads_typed_values() {
        let mut cursor = Cursor::new(&[0x20, 0x18, 24, 0xf5, 0xf6, 0x61, b'a', 0x41, 1]);
        assert_eq!(cursor.integer(), Ok(-1));
        assert_eq!(cursor.bool(), Err(CborError::WrongType));
        assert_eq!(cursor.unsigned(), Ok(24));
        assert_eq!(cursor.bool(), Ok(true));
        assert!(cursor.null());
        assert_eq!(cursor.text(), Ok("a"));
        assert_eq!(cursor.bytes(), Ok(&[1][..]));
        assert_eq!(cursor.end(), Ok(()));
        assert_eq!(
            Cursor::new(&[0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0]).integer(),
            Err(CborError::WrongType)
        );
    }
}
