//! The check at the end of each line.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// `,"check":"` and 16 hex digits and `"}`.
const LEN: usize = 28;
const BEFORE: &[u8] = b",\"check\":\"";
const BEHIND: &[u8] = b"\"}";

/// Closes and checks the lines of one dump, in their order: each line's last member is the xxh3-64 of all before it, seeded
/// with the check of the line before (the first line's: 0), in hex.
#[derive(Debug, Default)]
pub struct Seal(u64);

impl Seal {
    /// Puts the check before the last brace of a line, which has at least one member and no line feed yet.
    pub fn close(&mut self, line: &mut Vec<u8>) {
        line.pop();
        self.0 = xxh3_64_with_seed(line, self.0);
        line.extend_from_slice(BEFORE);
        line.extend_from_slice(format!("{:016x}", self.0).as_bytes());
        line.extend_from_slice(BEHIND);
    }

    /// Whether a line, without its line feed, is the one that was closed here.
    pub fn holds(&mut self, line: &[u8]) -> bool {
        let Some((text, check)) = line.split_at_checked(line.len().saturating_sub(LEN)) else {
            return false;
        };
        self.0 = xxh3_64_with_seed(text, self.0);
        let digits = check
            .strip_prefix(BEFORE)
            .and_then(|rest| rest.strip_suffix(BEHIND));
        digits == Some(format!("{:016x}", self.0).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Vec<u8>> {
        let mut seal = Seal::default();
        let closed = |text: &str| {
            let mut line = text.as_bytes().to_vec();
            seal.close(&mut line);
            line
        };
        [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":2}"#]
            .map(closed)
            .to_vec()
    }

    fn hold(lines: &[Vec<u8>]) -> bool {
        let mut seal = Seal::default();
        lines.iter().all(|line| seal.holds(line))
    }

    #[test]
    fn any_change_is_found() {
        let good = lines();
        assert!(hold(&good));
        assert!(
            good.iter()
                .all(|line| serde_json::from_slice::<serde_json::Value>(line).is_ok())
        );
        assert!(!hold(&good[1..]), "a line is missing");
        assert!(
            !hold(&[good[0].clone(), good[2].clone(), good[1].clone()]),
            "in another order"
        );
        for at in 0..good[1].len() {
            let mut bad = good.clone();
            bad[1][at] ^= 1;
            assert!(!hold(&bad), "byte {at}");
            bad[1].truncate(at);
            assert!(!hold(&bad), "ends at {at}");
        }
    }

    /// Frozen: other programs may check dumps.
    #[test]
    fn the_check_is_frozen() {
        let line = lines().swap_remove(1);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"a":2,"check":"0db82eb57a360d4b"}"#
        );
    }
}
