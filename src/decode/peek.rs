//! What the reader must know of a frame before a lane decodes it: type, DID, `seq` and `time`.
//!
//! Reads as little as it can and believes nothing: any key order, any garbage. What can't be read is `None`. The blocks
//! are passed over in one step, and normally not even reached.

use super::cbor::{ARRAY, BYTES, MAP, NEGATIVE, TAG, TEXT, UNSIGNED};
use super::syntax;

/// The greatest `seq` that the protocol knows.
pub(crate) const MAX_SEQ: u64 = (1 << 53) - 1;

/// What a frame is, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `#commit`
    Commit,
    /// `#sync`
    Sync,
    /// `#identity`
    Identity,
    /// `#account`
    Account,
    /// `#info`
    Info,
    /// An error frame (`op` −1).
    Error,
    /// Another `t` or `op`.
    Unknown,
    /// No header can be read.
    Garbage,
}

impl Kind {
    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Sync => "sync",
            Self::Identity => "identity",
            Self::Account => "account",
            Self::Info => "info",
            Self::Error => "error",
            Self::Unknown => "unknown",
            Self::Garbage => "garbage",
        }
    }

    /// The kind of a message by the `t` of its header.
    #[inline]
    pub(crate) fn of_message(t: &[u8]) -> Self {
        match t {
            b"#commit" => Self::Commit,
            b"#sync" => Self::Sync,
            b"#identity" => Self::Identity,
            b"#account" => Self::Account,
            b"#info" => Self::Info,
            _ => Self::Unknown,
        }
    }
}

/// What [`peek`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek<'a> {
    /// What the frame is.
    pub kind: Kind,
    /// The DID: `repo` of a commit, `did` of others, if it is one.
    pub did: Option<&'a str>,
    /// Number in the relay's stream, 1 to 2^53 − 1.
    pub seq: Option<u64>,
    /// Datetime as sent, unvalidated.
    pub time: Option<&'a str>,
}

/// Reads the type, DID, `seq` and `time` of a frame and stops as soon as it has them.
pub fn peek(frame: &[u8]) -> Peek<'_> {
    let mut reader = Loose { rest: frame };
    let kind = reader.header().unwrap_or(Kind::Garbage);
    let mut peek = Peek {
        kind,
        did: None,
        seq: None,
        time: None,
    };
    if !matches!(kind, Kind::Info | Kind::Error | Kind::Garbage) {
        let did_key: &[u8] = if kind == Kind::Commit {
            b"repo"
        } else {
            b"did"
        };
        // What was read before the bytes became unreadable counts.
        let _ = reader.payload(did_key, &mut peek);
    }
    peek
}

/// What a frame without a number is about: the `name` of an `#info`, the `error` of an error frame.
pub fn notice(frame: &[u8]) -> Option<&str> {
    let mut reader = Loose { rest: frame };
    let wanted: &[u8] = match reader.header()? {
        Kind::Info => b"name",
        Kind::Error => b"error",
        _ => return None,
    };
    let (MAP, entries) = reader.head()? else {
        return None;
    };
    for _ in 0..entries {
        if reader.text()? == wanted {
            return std::str::from_utf8(reader.text()?).ok();
        }
        reader.skip()?;
    }
    None
}

/// A reader that takes any well-formed head and checks nothing.
struct Loose<'a> {
    rest: &'a [u8],
}

impl<'a> Loose<'a> {
    fn header(&mut self) -> Option<Kind> {
        let (MAP, entries) = self.head()? else {
            return None;
        };
        let mut op = None;
        let mut t = None;
        for _ in 0..entries {
            match self.text()? {
                b"t" => t = Some(self.text()?),
                b"op" => op = Some(self.head()?),
                _ => self.skip()?,
            }
        }
        match (op?, t) {
            ((UNSIGNED, 1), Some(t)) => Some(Kind::of_message(t)),
            ((UNSIGNED, 1), None) => None,
            ((NEGATIVE, 0), _) => Some(Kind::Error),
            ((UNSIGNED | NEGATIVE, _), _) => Some(Kind::Unknown),
            _ => None,
        }
    }

    #[inline]
    fn payload(&mut self, did_key: &[u8], peek: &mut Peek<'a>) -> Option<()> {
        let (MAP, entries) = self.head()? else {
            return None;
        };
        for _ in 0..entries {
            let key = self.text()?;
            if key == b"seq" && self.is_next(UNSIGNED) {
                peek.seq = Some(self.head()?.1).filter(|seq| (1..=MAX_SEQ).contains(seq));
            } else if key == b"time" && self.is_next(TEXT) {
                peek.time = std::str::from_utf8(self.text()?).ok();
            } else if key == did_key && self.is_next(TEXT) {
                let did = Some(self.text()?).filter(|did| syntax::is_did_bytes(did));
                peek.did = did.and_then(|did| std::str::from_utf8(did).ok());
            } else {
                self.skip()?;
            }
            if peek.seq.is_some() && peek.did.is_some() && peek.time.is_some() {
                break;
            }
        }
        Some(())
    }

    #[inline]
    fn is_next(&self, major: u8) -> bool {
        self.rest.first().is_some_and(|first| first >> 5 == major)
    }

    /// The major type and the argument of a head of definite length.
    #[inline]
    fn head(&mut self) -> Option<(u8, u64)> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        let argument = match first & 31 {
            info @ 0..=23 => u64::from(info),
            24 => u64::from(self.byte()?),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            _ => return None,
        };
        Some((first >> 5, argument))
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*array)
    }

    #[inline]
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    fn text(&mut self) -> Option<&'a [u8]> {
        match self.head()? {
            (TEXT, len) => self.take(len),
            _ => None,
        }
    }

    /// Passes one item over. Counts the items that are still to come instead of nesting: no depth is too deep for it.
    #[inline]
    fn skip(&mut self) -> Option<()> {
        let mut pending: u64 = 1;
        while pending > 0 {
            pending -= 1;
            let (major, argument) = self.head()?;
            match major {
                BYTES | TEXT => drop(self.take(argument)?),
                ARRAY => pending = pending.checked_add(argument)?,
                MAP => pending = pending.checked_add(argument.checked_mul(2)?)?,
                TAG => pending += 1,
                _ => {}
            }
            if pending > self.rest.len() as u64 {
                return None;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_garbage() {
        for frame in [
            &b""[..],
            &[0xa1],
            &[0xff; 40],
            b"<html>",
            &[0xbb, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert_eq!(peek(frame).kind, Kind::Garbage, "{frame:x?}");
        }
    }

    #[test]
    fn reads_what_comes_before_the_damage() {
        // {op: 1, t: "#account"} with keys out of order, {seq: 7, did: "did:web:a.b" and then nothing.
        let mut frame =
            b"\xa2\x62op\x01\x61t\x68#account\xa5\x63seq\x07\x63did\x6bdid:web:a.b".to_vec();
        let seen = peek(&frame);
        assert_eq!(
            (seen.kind, seen.did, seen.seq),
            (Kind::Account, Some("did:web:a.b"), Some(7))
        );
        frame.pop();
        let seen = peek(&frame);
        assert_eq!(
            (seen.kind, seen.did, seen.seq),
            (Kind::Account, None, Some(7))
        );
    }

    #[test]
    fn notices_are_named() {
        // {op: -1, ...}{error: "Full", message: "x"}, with the keys in either order.
        let future = b"\xa1\x62op\x20\xa2\x67message\x61x\x65error\x64Full";
        assert_eq!(notice(future), Some("Full"));
        let info = b"\xa2\x61t\x65#info\x62op\x01\xa1\x64name\x63Old";
        assert_eq!(notice(info), Some("Old"));
        for other in [
            &b"\xa1\x62op\x20\xa0"[..],
            b"\xa1\x62op\x20\xa1\x65error\x01",
            b"\xa2\x61t\x67#commit\x62op\x01\xa1\x64name\x63Old",
            b"",
        ] {
            assert_eq!(notice(other), None, "{other:x?}");
        }
    }

    #[test]
    fn op_decides() {
        assert_eq!(peek(b"\xa1\x62op\x20\xa0").kind, Kind::Error);
        assert_eq!(
            peek(b"\xa2\x61t\x67#commit\x62op\x02\xa0").kind,
            Kind::Unknown
        );
        assert_eq!(
            peek(b"\xa2\x61t\x67#handle\x62op\x01\xa0").kind,
            Kind::Unknown
        );
        assert_eq!(peek(b"\xa1\x61t\x67#commit\xa0").kind, Kind::Garbage);
    }
}
