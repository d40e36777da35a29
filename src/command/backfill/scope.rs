//! What a job is over, from the command line and from lists of DIDs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::ScopeArgs;
use crate::api::BackfillRequest;
use crate::command::{Exit, Failure};
use crate::decode::syntax;

/// So many bad lines are named.
const NAMED: usize = 20;
/// So much of a bad line is shown, in characters.
const SHOWN: usize = 80;

/// The request that the arguments make.
pub(super) fn request(args: ScopeArgs) -> Result<BackfillRequest, Failure> {
    let mut dids = args.did;
    if let Some(file) = &args.dids {
        dids.extend(read_list(file)?);
    }
    let some = |names: Vec<String>| (!names.is_empty()).then_some(names);
    Ok(BackfillRequest {
        collections: some(args.collection),
        dids: some(dids),
        handle: args.handle,
        days: args.days,
        force: args.force.map(Into::into),
        ..BackfillRequest::default()
    })
}

/// An empty list is refused: a job over nothing must not become one over everything.
fn read_list(file: &Path) -> Result<Vec<String>, Failure> {
    let name = file.display();
    let fail = |message: String| Failure::new(Exit::Failed, message);
    let lines: Box<dyn BufRead> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => {
            let opened = File::open(file).map_err(|error| fail(format!("{name}: {error}")))?;
            Box::new(BufReader::new(opened))
        }
    };
    let dids = read_lines(lines).map_err(|problem| fail(format!("{name}: {problem}")))?;
    match dids.is_empty() {
        true => Err(fail(format!("{name} names no DID"))),
        false => Ok(dids),
    }
}

/// The DIDs, a line each; blank lines and lines that begin with # are skipped, every other one that is none is named.
fn read_lines(lines: impl BufRead) -> Result<Vec<String>, String> {
    let (mut dids, mut bad, mut more) = (Vec::new(), Vec::new(), 0_u64);
    for (at, line) in (1_u64..).zip(lines.lines()) {
        let line = line.map_err(|error| format!("line {at}: {error}"))?;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if syntax::is_did(line) {
            dids.push(line.to_owned());
        } else if bad.len() < NAMED {
            let shown: String = line.chars().take(SHOWN).collect();
            bad.push(format!("line {at} is not a DID: {shown:?}"));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        bad.push(format!("and {more} more lines are none"));
    }
    match bad.is_empty() {
        true => Ok(dids),
        false => Err(bad.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_line_is_named() {
        let list = "# those of the test\n\ndid:web:a.test\n  did:web:b.test  \r\n";
        let dids = read_lines(list.as_bytes()).unwrap();
        assert_eq!(dids, ["did:web:a.test", "did:web:b.test"]);
        let bad = format!("{list}alice.test\ndid:web:c.test\ndid:plc\n");
        let problem = read_lines(bad.as_bytes()).unwrap_err();
        assert!(
            problem.contains("line 5 is not a DID: \"alice.test\""),
            "{problem}"
        );
        assert!(
            problem.contains("line 7 is not a DID: \"did:plc\""),
            "{problem}"
        );
        let many = read_lines("x\n".repeat(25).as_bytes()).unwrap_err();
        assert!(many.ends_with("and 5 more lines are none"), "{many}");
    }
}
