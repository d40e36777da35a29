//! `backfill.skip_dids`: DIDs, and files that hold more of them.

use std::path::Path;

use super::reader::Reader;
use crate::decode::syntax;

const KEY: &str = "backfill.skip_dids";
const ALLOWED: &str = "allowed: DIDs such as did:plc:ewvi7nxzyoun6zhxrhs64oiz, and files of them, as /path, ./path or file:path";

/// The DIDs of all entries, those of files among them. Everything that is none is refused, each by itself.
pub(super) fn dids(reader: &mut Reader<'_>, entries: &[String]) -> Vec<String> {
    let mut dids = Vec::new();
    for entry in entries {
        match path_of(entry) {
            Some(path) => read_file(reader, Path::new(path), &mut dids),
            None if syntax::is_did(entry) => dids.push(entry.clone()),
            None => reader.refuse(KEY, format!("{entry:?} is not a DID; {ALLOWED}")),
        }
    }
    dids
}

fn path_of(entry: &str) -> Option<&str> {
    let is_path = entry.starts_with('/') || entry.starts_with("./");
    let named = entry.strip_prefix("file:");
    named.or_else(|| is_path.then_some(entry))
}

/// A DID a line; what follows a `#` is a comment.
fn read_file(reader: &mut Reader<'_>, path: &Path, dids: &mut Vec<String>) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let path = path.display();
            return reader.refuse(KEY, format!("{path} can't be read: {error}"));
        }
    };
    for (at, line) in text.lines().enumerate() {
        let did = line.split('#').next().unwrap_or_default().trim();
        match did {
            "" => {}
            did if syntax::is_did(did) => dids.push(did.to_owned()),
            other => {
                let problem = "is not a DID; allowed: one a line, and comments behind a #";
                reader.refuse_line(KEY, path, at.saturating_add(1), other, problem);
            }
        }
    }
}
