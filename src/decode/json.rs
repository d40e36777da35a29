//! Pieces of JSON, written to a reused buffer.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Appends text (valid UTF-8) with what JSON must have escaped (quote, backslash, control characters), without the quotes around it.
#[inline]
pub(crate) fn write_text(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let Some((plain, special)) = rest.split_at_checked(plain_len(rest)) else {
            return;
        };
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else {
            return;
        };
        write_escaped(*byte, out);
        rest = after;
    }
}

/// How many bytes at the front need no escape. Looks at eight bytes at once.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    let (chunks, tail) = bytes.as_chunks::<8>();
    for (at, chunk) in chunks.iter().enumerate() {
        let found = specials(u64::from_le_bytes(*chunk));
        if found != 0 {
            // The lowest mark is exact; borrows can only forge higher ones.
            return at * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    bytes.len() - tail.len() + tail.iter().take_while(|byte| plain(byte)).count()
}

#[inline]
fn specials(word: u64) -> u64 {
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zero_bytes(word ^ (ONES * 0x22));
    let backslash = zero_bytes(word ^ (ONES * 0x5c));
    (control | quote | backslash) & HIGH
}

fn write_escaped(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        8 => b'b',
        12 => b'f',
        _ => {
            let digit = |nibble: u8| {
                if nibble < 10 {
                    b'0' + nibble
                } else {
                    b'a' + nibble - 10
                }
            };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends an integer of CBOR: `value`, or `-1 - value` if it is negative.
#[inline]
pub(crate) fn write_int(value: u64, negative: bool, out: &mut Vec<u8>) {
    // 2^64 has 20 digits.
    let mut digits = [0; 20];
    let mut magnitude = u128::from(value) + u128::from(negative);
    let mut len = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (magnitude % 10) as u8;
        magnitude /= 10;
        len += 1;
        if magnitude == 0 {
            break;
        }
    }
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(digits.len() - len..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_like_serde_json_does() {
        for special in (0..=0x7f).map(char::from).chain(['ü', '😀', '\u{2028}']) {
            for before in 0..20 {
                let text = format!("{}{special}{special}abcdefghi", "ö".repeat(before));
                let mut out = b"\"".to_vec();
                write_text(text.as_bytes(), &mut out);
                out.push(b'"');
                let expected = serde_json::to_string(&text).unwrap();
                assert_eq!(String::from_utf8(out).unwrap(), expected);
            }
        }
    }

    #[test]
    fn integers() {
        for (value, negative, expected) in [
            (0, false, "0"),
            (0, true, "-1"),
            (1234567890, false, "1234567890"),
            (u64::MAX, false, "18446744073709551615"),
            (u64::MAX, true, "-18446744073709551616"),
        ] {
            let mut out = Vec::new();
            write_int(value, negative, &mut out);
            assert_eq!(out, expected.as_bytes());
        }
    }
}
