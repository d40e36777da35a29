//! Records: the check against the AT Protocol data model, and AT Protocol JSON, in one pass (protocol.md, section 6).
//!
//! A record was published as it is, so this reads any well-formed CBOR, says how it first breaks the model, and writes JSON that is
//! always valid: floats as numbers (`null` if not finite), other tags as what they hold, keys in the order of the bytes,
//! duplicate ones included, keys that are not text as text.

use data_encoding::BASE64_NOPAD;

use super::cbor::{self, ARRAY, BYTES, MAP, MAX_DEPTH, NEGATIVE, TAG, TEXT, UNSIGNED};
use super::json::{write_int, write_text};
use super::{Cid, RecordFault};

/// How a record breaks the data model, if it does: the first fault, or the one that leaves it without JSON.
pub fn check_record(record: &[u8]) -> Option<RecordFault> {
    walk::<false>(record, &mut Vec::new())
}

/// Appends the record to `out` as AT Protocol JSON, and checks it as [`check_record`] does.
///
/// What is appended is one valid JSON value, at most 16 times as long as the record, or nothing for
/// [`RecordFault::NotCbor`] and [`RecordFault::TooDeep`].
pub fn record_to_json(record: &[u8], out: &mut Vec<u8>) -> Option<RecordFault> {
    out.reserve(record.len() + record.len() / 2);
    walk::<true>(record, out)
}

fn walk<const JSON: bool>(record: &[u8], out: &mut Vec<u8>) -> Option<RecordFault> {
    let before = out.len();
    let mut walk = Walk::<JSON> {
        rest: record,
        out,
        fault: None,
    };
    if record.first().is_some_and(|first| first >> 5 != MAP) {
        walk.fault(RecordFault::NotMap);
    }
    if let Err(fatal) = walk.value(MAX_DEPTH) {
        walk.out.truncate(before);
        return Some(fatal);
    }
    if !walk.rest.is_empty() {
        walk.fault(RecordFault::NotCanonical);
    }
    walk.fault
}

/// Only faults that leave a record without JSON are errors here.
type Walked<T> = Result<T, RecordFault>;

struct Walk<'a, 'o, const JSON: bool> {
    rest: &'a [u8],
    out: &'o mut Vec<u8>,
    fault: Option<RecordFault>,
}

/// What the fields of a map say about it being a blob.
#[derive(Default)]
struct BlobShape {
    is_blob: bool,
    has_ref: bool,
    has_size: bool,
    has_mime_type: bool,
}

impl<'a, const JSON: bool> Walk<'a, '_, JSON> {
    #[inline]
    fn fault(&mut self, fault: RecordFault) {
        self.fault.get_or_insert(fault);
    }

    #[inline]
    fn write(&mut self, json: &[u8]) {
        if JSON {
            self.out.extend_from_slice(json);
        }
    }

    #[inline]
    fn take(&mut self, len: u64) -> Walked<&'a [u8]> {
        let len = usize::try_from(len).map_err(|_| RecordFault::NotCbor)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(RecordFault::NotCbor)?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Walked<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(RecordFault::NotCbor)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The argument of a head; `None` if the length is indefinite.
    #[inline]
    fn argument(&mut self, info: u8) -> Walked<Option<u64>> {
        if info < 24 {
            Ok(Some(u64::from(info)))
        } else {
            self.long_argument(info)
        }
    }

    fn long_argument(&mut self, info: u8) -> Walked<Option<u64>> {
        let (value, least) = match info {
            24 => (u64::from(u8::from_be_bytes(self.take_array()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.take_array()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.take_array()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.take_array()?), 1 << 32),
            31 => {
                self.fault(RecordFault::NotCanonical);
                return Ok(None);
            }
            _ => return Err(RecordFault::NotCbor),
        };
        if value < least {
            self.fault(RecordFault::NotCanonical);
        }
        Ok(Some(value))
    }

    /// Reads an item and writes it. Recursion ends at [`MAX_DEPTH`].
    fn value(&mut self, depth: usize) -> Walked<()> {
        let (first, rest) = self.rest.split_first().ok_or(RecordFault::NotCbor)?;
        self.rest = rest;
        let info = first & 31;
        match first >> 5 {
            TEXT => self.text_value(info),
            UNSIGNED => self.integer(info, false),
            NEGATIVE => self.integer(info, true),
            BYTES => self.bytes_value(info),
            ARRAY => self.array(info, inner(depth)?),
            MAP => self.map(info, inner(depth)?),
            TAG => self.tag(info, inner(depth)?),
            _ => self.simple(info),
        }
    }

    fn integer(&mut self, info: u8, negative: bool) -> Walked<()> {
        let value = self.argument(info)?.ok_or(RecordFault::NotCbor)?;
        if i64::try_from(value).is_err() {
            self.fault(RecordFault::BadValue);
        }
        if JSON {
            write_int(value, negative, self.out);
        }
        Ok(())
    }

    fn text_value(&mut self, info: u8) -> Walked<()> {
        let argument = self.argument(info)?;
        self.write(b"\"");
        match argument {
            Some(len) => self.text_chunk(len)?,
            None => {
                while let Some(len) = self.chunk(TEXT)? {
                    self.text_chunk(len)?;
                }
            }
        }
        self.write(b"\"");
        Ok(())
    }

    #[inline]
    fn text_chunk(&mut self, len: u64) -> Walked<()> {
        let bytes = self.take(len)?;
        // Most text is ASCII, which is found out faster than that it is UTF-8.
        if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
            if JSON {
                write_text(bytes, self.out);
            }
        } else {
            self.fault(RecordFault::BadValue);
            if JSON {
                write_text(String::from_utf8_lossy(bytes).as_bytes(), self.out);
            }
        }
        Ok(())
    }

    /// The length of the next chunk of a string of indefinite length; `None` at its end.
    fn chunk(&mut self, major: u8) -> Walked<Option<u64>> {
        match self.take_array::<1>()? {
            [0xff] => Ok(None),
            [first] if first >> 5 == major => self
                .argument(first & 31)?
                .map(Some)
                .ok_or(RecordFault::NotCbor),
            _ => Err(RecordFault::NotCbor),
        }
    }

    fn bytes_value(&mut self, info: u8) -> Walked<()> {
        match self.argument(info)? {
            Some(len) => {
                let bytes = self.take(len)?;
                self.write_bytes(bytes);
            }
            None => {
                let mut bytes = Vec::new();
                while let Some(len) = self.chunk(BYTES)? {
                    bytes.extend_from_slice(self.take(len)?);
                }
                self.write_bytes(&bytes);
            }
        }
        Ok(())
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        self.write(b"{\"$bytes\":\"");
        self.write_base64(bytes);
        self.write(b"\"}");
    }

    fn write_base64(&mut self, bytes: &[u8]) {
        if JSON {
            let start = self.out.len();
            self.out
                .resize(start + BASE64_NOPAD.encode_len(bytes.len()), 0);
            if let Some(space) = self.out.get_mut(start..) {
                BASE64_NOPAD.encode_mut(bytes, space);
            }
        }
    }

    fn array(&mut self, info: u8, depth: usize) -> Walked<()> {
        let mut left = self.argument(info)?;
        let mut first = true;
        self.write(b"[");
        while self.more(&mut left)? {
            if !first {
                self.write(b",");
            }
            first = false;
            self.value(depth)?;
        }
        self.write(b"]");
        Ok(())
    }

    /// Whether a container goes on: counts down, or looks for the end mark where the length is indefinite.
    #[inline]
    fn more(&mut self, left: &mut Option<u64>) -> Walked<bool> {
        match left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => {
                let end = *self.rest.first().ok_or(RecordFault::NotCbor)? == 0xff;
                if end {
                    self.take(1)?;
                }
                Ok(!end)
            }
        }
    }

    fn map(&mut self, info: u8, depth: usize) -> Walked<()> {
        let mut left = self.argument(info)?;
        let mut last: Option<&[u8]> = None;
        let mut shape = BlobShape::default();
        self.write(b"{");
        while self.more(&mut left)? {
            if last.is_some() {
                self.write(b",");
            }
            let key = self.key(depth)?;
            if last.is_some_and(|last| !cbor::precedes(last, key)) {
                self.fault(RecordFault::NotCanonical);
            }
            last = Some(key);
            self.write(b":");
            self.note_field(key, &mut shape);
            self.value(depth)?;
        }
        self.write(b"}");
        if shape.is_blob && !(shape.has_ref && shape.has_size && shape.has_mime_type) {
            self.fault(RecordFault::BadValue);
        }
        Ok(())
    }

    #[inline]
    fn key(&mut self, depth: usize) -> Walked<&'a [u8]> {
        match self.rest.split_first() {
            Some((first, rest)) if first >> 5 == TEXT && first & 31 != 31 => {
                self.rest = rest;
                let len = self.argument(first & 31)?.ok_or(RecordFault::NotCbor)?;
                let key = self.rest.get(..usize::try_from(len).unwrap_or(usize::MAX));
                self.write(b"\"");
                self.text_chunk(len)?;
                self.write(b"\"");
                key.ok_or(RecordFault::NotCbor)
            }
            Some(_) => self.odd_key(depth),
            None => Err(RecordFault::NotCbor),
        }
    }

    /// A key that is not plain text becomes text: an integer its digits, anything else the base64 of its bytes.
    fn odd_key(&mut self, depth: usize) -> Walked<&'a [u8]> {
        self.fault(RecordFault::BadValue);
        let from = self.rest;
        let is_integer = from.first().is_some_and(|first| first >> 5 <= NEGATIVE);
        self.write(b"\"");
        let start = self.out.len();
        self.value(depth)?;
        let key = from.get(..from.len() - self.rest.len()).unwrap_or_default();
        if !is_integer {
            self.out.truncate(start);
            self.write_base64(key);
        }
        self.write(b"\"");
        Ok(key)
    }

    /// Looks at a key that the data model gives a meaning, and at the value to come.
    #[inline]
    fn note_field(&mut self, key: &[u8], shape: &mut BlobShape) {
        let value = self.rest;
        let major = value.first().map(|first| first >> 5);
        match key {
            b"ref" => shape.has_ref = value.starts_with(&[0xd8, 42]),
            b"size" => shape.has_size = major == Some(UNSIGNED),
            b"mimeType" => shape.has_mime_type = major == Some(TEXT),
            b"$type" => {
                shape.is_blob = value.starts_with(b"\x64blob");
                if major != Some(TEXT) || value.first() == Some(&(TEXT << 5)) {
                    self.fault(RecordFault::BadValue);
                }
            }
            // They stand for a link and for bytes in JSON, so that no map may have them.
            b"$link" | b"$bytes" => self.fault(RecordFault::BadValue),
            _ => {}
        }
    }

    fn tag(&mut self, info: u8, depth: usize) -> Walked<()> {
        let tag = self.argument(info)?.ok_or(RecordFault::NotCbor)?;
        if tag == 42
            && let Some(([0x58, len], rest)) = self.rest.split_first_chunk::<2>()
            && let Some((content, rest)) = rest.split_at_checked(usize::from(*len))
            && let Some((0, cid)) = content.split_first()
        {
            self.rest = rest;
            self.link(cid);
            return Ok(());
        }
        self.fault(RecordFault::BadValue);
        self.value(depth)
    }

    fn link(&mut self, bytes: &[u8]) {
        self.write(b"{\"$link\":\"");
        match Cid::from_bytes(bytes) {
            Some(cid) => self.write(&cid.encode()),
            None => {
                self.fault(RecordFault::BadValue);
                if JSON {
                    self.out.push(b'b');
                    let base32 = data_encoding::BASE32_NOPAD
                        .encode(bytes)
                        .to_ascii_lowercase();
                    self.write(base32.as_bytes());
                }
            }
        }
        self.write(b"\"}");
    }

    fn simple(&mut self, info: u8) -> Walked<()> {
        let literal: &[u8] = match info {
            20 => b"false",
            21 => b"true",
            22 => b"null",
            _ => return self.odd_simple(info),
        };
        self.write(literal);
        Ok(())
    }

    /// Floats, `undefined` and unassigned simple values.
    fn odd_simple(&mut self, info: u8) -> Walked<()> {
        let float = match info {
            25 => half(u16::from_be_bytes(self.take_array()?)),
            26 => f64::from(f32::from_be_bytes(self.take_array()?)),
            27 => f64::from_be_bytes(self.take_array()?),
            24 if self.take_array::<1>()? < [32] => return Err(RecordFault::NotCbor),
            0..=24 => f64::NAN,
            _ => return Err(RecordFault::NotCbor),
        };
        self.fault(RecordFault::BadValue);
        if JSON && serde_json::to_writer(&mut *self.out, &float).is_err() {
            self.write(b"null");
        }
        Ok(())
    }
}

fn inner(depth: usize) -> Walked<usize> {
    depth.checked_sub(1).ok_or(RecordFault::TooDeep)
}

/// The value of a float of 16 bits (IEEE 754 binary16).
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let value = match bits >> 10 & 31 {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (fraction + 1024.0) * 2f64.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(record: &[u8]) -> (Option<RecordFault>, String) {
        let mut out = b"x".to_vec();
        let fault = record_to_json(record, &mut out);
        assert_eq!(check_record(record), fault);
        (fault, String::from_utf8(out).unwrap().split_off(1))
    }

    #[test]
    fn a_good_record_has_no_fault() {
        let (fault, json) = json(b"\xa3\x61a\x20\x62bb\x83\xf6\xf5\x41\xff\x65$type\x61x");
        assert_eq!(
            (fault, json.as_str()),
            (
                None,
                r#"{"a":-1,"bb":[null,true,{"$bytes":"/w"}],"$type":"x"}"#
            )
        );
    }

    #[test]
    fn faults_are_named_and_json_stays_valid() {
        use RecordFault::{BadValue, NotCanonical, NotCbor, NotMap, TooDeep};
        for (record, fault, expected) in [
            (&b""[..], NotCbor, ""),
            (b"\xa1\x61a", NotCbor, ""),
            (b"\xa1\x61a\xf8\x1f", NotCbor, ""),
            (b"\xa1\x61a\xff", NotCbor, ""),
            (b"\x01", NotMap, "1"),
            (b"\xa0\x00", NotCanonical, "{}"),
            (b"\xa2\x61b\x00\x61a\x01", NotCanonical, r#"{"b":0,"a":1}"#),
            (b"\xa2\x61a\x00\x61a\x01", NotCanonical, r#"{"a":0,"a":1}"#),
            (
                b"\xbf\x61a\x9f\x18\x01\xff\xff",
                NotCanonical,
                r#"{"a":[1]}"#,
            ),
            (
                b"\xa1\x61a\x7f\x61b\x61c\xff",
                NotCanonical,
                r#"{"a":"bc"}"#,
            ),
            (
                b"\xa1\x61a\x5f\x41\x00\x41\x00\xff",
                NotCanonical,
                r#"{"a":{"$bytes":"AAA"}}"#,
            ),
            (b"\xa1\x61a\xf9\x3e\x00", BadValue, r#"{"a":1.5}"#),
            (b"\xa1\x61a\xf9\x7c\x00", BadValue, r#"{"a":null}"#),
            (b"\xa1\x61a\xf7", BadValue, r#"{"a":null}"#),
            (b"\xa1\x61a\xc0\x61b", BadValue, r#"{"a":"b"}"#),
            (b"\xa1\x61a\x62\xc3\x28", BadValue, "{\"a\":\"\u{fffd}(\"}"),
            (b"\xa1\x01\x02", BadValue, r#"{"1":2}"#),
            (b"\xa1\x41\x00\x02", BadValue, r#"{"QQA":2}"#),
            (
                b"\xa1\x61a\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
                BadValue,
                r#"{"a":18446744073709551615}"#,
            ),
            (
                b"\xa1\x61a\x3b\xff\xff\xff\xff\xff\xff\xff\xff",
                BadValue,
                r#"{"a":-18446744073709551616}"#,
            ),
            (
                b"\xa1\x61a\xd8\x2a\x41\x00",
                BadValue,
                r#"{"a":{"$bytes":"AA"}}"#,
            ),
            (b"\xa1\x65$type\x60", BadValue, r#"{"$type":""}"#),
            (&[0x81; 40], TooDeep, ""),
        ] {
            assert_eq!(
                json(record),
                (Some(fault), expected.to_owned()),
                "{record:x?}"
            );
        }
    }

    #[test]
    fn halves() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (1, 5.960464477539063e-8),
        ] {
            assert!((half(bits) - value).abs() < 1e-12, "{bits:x}");
        }
        assert!(half(0x7e00).is_nan());
    }
}
