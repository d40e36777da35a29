//! TIDs: 13 characters of base32-sortable, 53 bits of microseconds and 10 bits of clock id (protocol.md, section 6).

use std::fmt;

const ALPHABET: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";

/// A timestamp identifier. String order equals numeric order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tid(u64);

impl Tid {
    /// A TID of a time in microseconds since the epoch (53 bits count) and a clock id (10 bits count).
    pub fn new(micros: u64, clock: u16) -> Self {
        Self((micros & ((1 << 53) - 1)) << 10 | u64::from(clock & 0x3ff))
    }

    /// A TID of its 64-bit number; `None` if the top bit is set.
    pub fn from_u64(value: u64) -> Option<Self> {
        (value >> 63 == 0).then_some(Self(value))
    }

    /// The 64-bit number.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// Microseconds since the Unix epoch: the version of what a commit with this `rev` caused.
    pub fn micros(self) -> u64 {
        self.0 >> 10
    }

    /// The 10 bits that are not time.
    pub fn clock(self) -> u16 {
        u16::try_from(self.0 & 0x3ff).unwrap_or_default()
    }

    /// Parses the 13 characters; `None` if they are not exactly a TID.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 13 {
            return None;
        }
        let mut value: u64 = 0;
        for (at, byte) in text.iter().enumerate() {
            let digit = match byte {
                b'2'..=b'7' => byte - b'2',
                b'a'..=b'z' => byte - b'a' + 6,
                _ => return None,
            };
            if at == 0 && digit > 7 {
                return None;
            }
            value = value << 5 | u64::from(digit);
        }
        Some(Self(value))
    }

    /// The 13 characters.
    pub fn encode(self) -> [u8; 13] {
        let mut text = [b'2'; 13];
        let mut value = self.0;
        for byte in text.iter_mut().rev() {
            *byte = usize::try_from(value & 31)
                .ok()
                .and_then(|digit| ALPHABET.get(digit))
                .copied()
                .unwrap_or(b'2');
            value >>= 5;
        }
        text
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).unwrap_or_default())
    }
}

impl fmt::Debug for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Tid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Tid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(text.as_bytes()).ok_or_else(|| serde::de::Error::custom("not a TID"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let tid = Tid::parse(b"3mwgncrrtze23").unwrap();
        assert_eq!((tid.micros(), tid.clock()), (1_790_437_941_307_370, 1));
        assert_eq!(tid.to_string(), "3mwgncrrtze23");
        assert_eq!(Tid::new(tid.micros(), 1), tid);
        assert_eq!(Tid::parse(b"zmwgncrrtze23"), None);
        assert_eq!(Tid::parse(b"3mwgncrrtze2"), None);
        assert_eq!(Tid::parse(b"3mwgncrrtze21"), None);
    }
}
