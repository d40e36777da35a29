//! The syntax of identifiers (protocol.md, section 7). DIDs, NSIDs and record keys are checked by hand, as each frame
//! has them; the rest by atrium-api.

use atrium_api::types::string;

/// Classes of characters, one bit each, by byte.
const CLASSES: [u8; 256] = classes();
const LOWER: u8 = 1;
const LETTER: u8 = 2;
const ALPHANUMERIC: u8 = 4;
const IN_DID: u8 = 8;
const IN_RKEY: u8 = 16;

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut at: u8 = 0;
    while at < 128 {
        let mut class = 0;
        if at.is_ascii_lowercase() {
            class |= LOWER;
        }
        if at.is_ascii_alphabetic() {
            class |= LETTER;
        }
        if at.is_ascii_alphanumeric() {
            class |= ALPHANUMERIC | IN_DID | IN_RKEY;
        }
        if matches!(at, b'.' | b'_' | b':' | b'-') {
            class |= IN_DID | IN_RKEY;
        }
        if at == b'%' {
            class |= IN_DID;
        }
        if at == b'~' {
            class |= IN_RKEY;
        }
        #[expect(
            clippy::indexing_slicing,
            reason = "at is below 128; evaluated at compile time"
        )]
        {
            classes[at as usize] = class;
        }
        at += 1;
    }
    classes
}

#[inline]
fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or_default()
}

#[inline]
fn is(byte: u8, wanted: u8) -> bool {
    class(byte) & wanted != 0
}

/// Looks at every byte whatever it finds: identifiers are short and nearly always good.
#[inline]
fn all(bytes: &[u8], wanted: u8) -> bool {
    let common = bytes
        .iter()
        .fold(wanted, |common, byte| common & class(*byte));
    common != 0
}

/// Whether the text is a DID.
#[inline]
pub fn is_did(text: &str) -> bool {
    is_did_bytes(text.as_bytes())
}

/// [`is_did`] of bytes; what it accepts is ASCII.
#[inline]
pub(crate) fn is_did_bytes(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"did:") else {
        return false;
    };
    let Some(colon) = rest.iter().position(|byte| *byte == b':') else {
        return false;
    };
    let Some((method, [_, id @ ..])) = rest.split_at_checked(colon) else {
        return false;
    };
    text.len() <= 2048
        && !method.is_empty()
        && all(method, LOWER)
        && all(id, IN_DID)
        && !matches!(id.last(), None | Some(b':' | b'%'))
}

/// Whether the text is an NSID, such as a collection.
#[inline]
pub fn is_nsid(text: &str) -> bool {
    is_nsid_bytes(text.as_bytes())
}

/// [`is_nsid`] of bytes; what it accepts is ASCII.
#[inline]
pub(crate) fn is_nsid_bytes(bytes: &[u8]) -> bool {
    if bytes.len() > 317 || !bytes.first().is_some_and(|first| is(*first, LETTER)) {
        return false;
    }
    let (mut dots, mut start, mut before) = (0, 0, b'.');
    let mut plain_name = true;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'.' => {
                if matches!(before, b'.' | b'-') || at - start > 63 {
                    return false;
                }
                (dots, start, plain_name) = (dots + 1, at + 1, true);
            }
            b'-' if before != b'.' => plain_name = false,
            _ if is(*byte, ALPHANUMERIC) => {}
            _ => return false,
        }
        before = *byte;
    }
    // The last label is the name: letters and digits, led by a letter.
    let name = bytes.get(start..).unwrap_or_default();
    dots >= 2
        && plain_name
        && (1..=63).contains(&name.len())
        && name.first().is_some_and(|first| is(*first, LETTER))
}

/// Whether the text is a record key.
#[inline]
pub fn is_rkey(text: &str) -> bool {
    is_rkey_bytes(text.as_bytes())
}

/// [`is_rkey`] of bytes; what it accepts is ASCII.
#[inline]
pub(crate) fn is_rkey_bytes(text: &[u8]) -> bool {
    (1..=512).contains(&text.len()) && all(text, IN_RKEY) && text != b"." && text != b".."
}

/// Whether the text is a TID.
#[inline]
pub fn is_tid(text: &str) -> bool {
    super::Tid::parse(text.as_bytes()).is_some()
}

/// Whether the text is a handle (`handle.invalid` is one).
pub fn is_handle(text: &str) -> bool {
    text.len() <= 253 && string::Handle::new(text.to_owned()).is_ok()
}

/// Whether the text is a datetime by the specification, with its time zone. [`super::time`] reads more.
pub fn is_datetime(text: &str) -> bool {
    text.len() <= 64 && text.parse::<string::Datetime>().is_ok()
}

/// Whether the text is a language tag, as atrium-api sees it: it lets some repeated subtags pass.
pub fn is_language(text: &str) -> bool {
    text.len() <= 128 && string::Language::new(text.to_owned()).is_ok()
}

/// Whether the text is an AT-URI as lexicons restrict it: authority, collection, record key, no query, no fragment.
pub fn is_aturi(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("at://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let authority = parts
        .next()
        .is_some_and(|part| is_did(part) || is_handle(part));
    let collection = parts.next().is_none_or(is_nsid);
    let rkey = parts.next().is_none_or(is_rkey);
    text.len() <= 8192 && authority && collection && rkey && parts.next().is_none()
}

/// Whether the text is a generic URI: a scheme, a colon, and at least one character, none of them white space.
pub fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.len() <= 8192
        && scheme
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
        && scheme.bytes().all(in_scheme)
        && !rest.is_empty()
        && !rest.chars().any(char::is_whitespace)
}

/// Whether the text may be a CID of any kind: the loose check that lexicons ask for. [`super::Cid::parse`] is strict.
pub fn is_cid(text: &str) -> bool {
    (8..=256).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'='))
        && !text.starts_with("Qm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_atrium() {
        let parts = [
            "did:", "plc", "a.b.c", ".", "-", "x", "9", ":", "%", "_", "~", "B", "é", " ",
        ];
        let mut random = fastrand::Rng::with_seed(1);
        let mut accepted = [0; 3];
        for _ in 0..50_000 {
            let len = random.usize(0..7);
            let mut text: String = (0..len)
                .map(|_| parts[random.usize(0..parts.len())])
                .collect();
            if random.u8(0..50) == 0 {
                text = text.repeat(random.usize(1..70));
            }
            let ours = [is_did(&text), is_nsid(&text), is_rkey(&text)];
            let theirs = [
                string::Did::new(text.clone()).is_ok(),
                string::Nsid::new(text.clone()).is_ok(),
                string::RecordKey::new(text.clone()).is_ok(),
            ];
            assert_eq!(ours, theirs, "{text:?}");
            for (count, ours) in accepted.iter_mut().zip(ours) {
                *count += usize::from(ours);
            }
        }
        assert!(accepted.iter().all(|count| *count > 50), "{accepted:?}");
    }
}
