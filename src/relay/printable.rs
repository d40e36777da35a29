//! Foreign text, made fit for a log line.

/// Longest text shown, in characters.
const MAX_CHARS: usize = 200;

/// `text` in one line of at most 200 characters: runs of white space become one blank, and what is
/// neither a letter, a digit nor visible ASCII becomes `?`, so that nobody writes into our logs.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    let mut chars = 0;
    for word in text
        .split(|c: char| c.is_whitespace())
        .filter(|w| !w.is_empty())
    {
        let blank = (chars > 0).then_some(' ');
        for c in blank.into_iter().chain(word.chars()) {
            if chars == MAX_CHARS {
                out.push('…');
                return out;
            }
            let visible = c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
            out.push(if visible { c } else { '?' });
            chars += 1;
        }
    }
    out
}

/// [`printable`] for bytes that may be no UTF-8.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bounded_line_without_control_characters() {
        assert_eq!(printable("  <html>\r\n\t<b>Größe "), "<html> <b>Größe");
        assert_eq!(printable("a\u{1b}[31mb\u{202e}c"), "a?[31mb?c");
        assert_eq!(printable_bytes(b"\xff\x00"), "??");
        let long = printable(&"ä".repeat(1000));
        assert_eq!(long.chars().count(), MAX_CHARS + 1);
        assert!(long.ends_with('…'));
        assert_eq!(printable(&"x".repeat(200)), "x".repeat(200));
    }
}
