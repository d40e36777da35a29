//! TIDs (protocol.md, section 6).

const ALPHABET: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";

/// A timestamp identifier; the number orders as the text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(u64);

impl Tid {
    /// Of microseconds since the epoch and a clock id of 10 bits.
    pub fn new(micros: u64, clock: u64) -> Self {
        Self((micros & ((1 << 53) - 1)) << 10 | (clock & 0x3ff))
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> u64 {
        self.0 >> 10
    }
}

impl std::fmt::Display for Tid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: [u8; 13] =
            std::array::from_fn(|at| ALPHABET[(self.0 >> (5 * (12 - at)) & 31) as usize]);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}
