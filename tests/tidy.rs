//! The repository's own hygiene: what a reader or a fresh clone would trip over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The tracked files that exist. Outside a checkout (a source archive) there is nothing to say.
fn tracked() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let Ok(output) = listed
        .map_err(drop)
        .and_then(|o| o.status.success().then_some(o).ok_or(()))
    else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "git lists no files"
        );
        return Vec::new();
    };
    let names = String::from_utf8(output.stdout).expect("file names in UTF-8");
    let names = names.split_terminator('\0').map(PathBuf::from);
    names.filter(|name| root().join(name).is_file()).collect()
}

fn with_extension(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut files = tracked();
    files.retain(|name| {
        name.extension()
            .is_some_and(|own| extensions.iter().any(|ext| own == *ext))
    });
    files
        .into_iter()
        .map(|name| (name.clone(), read(&name)))
        .collect()
}

fn read(name: &Path) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name:?}: {error}"))
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn source_files_are_short() {
    let mut found = Vec::new();
    for (name, text) in with_extension(&["rs"]) {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            found.push(format!("{}: {lines} lines", name.display()));
        }
    }
    none("split along meaning what is longer than 600 lines", &found);
}

#[test]
fn files_are_named_for_what_they_do() {
    let mut found = Vec::new();
    for name in tracked() {
        let mut parts = name
            .iter()
            .map(|part| part.to_string_lossy().to_lowercase());
        let vague = [
            "util", "utils", "helper", "helpers", "common", "misc", "manager",
        ];
        if parts.any(|part| vague.contains(&part.split('.').next().unwrap_or_default())) {
            found.push(name.display().to_string());
        }
    }
    none("names that say nothing", &found);
}

#[test]
fn lines_end_where_their_text_does() {
    let mut found = Vec::new();
    for (name, text) in with_extension(&["rs", "md", "toml", "mjs", "json"]) {
        for (number, line) in text.split('\n').enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                found.push(format!("{}:{}", name.display(), number + 1));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            found.push(format!("{}: no newline at its end", name.display()));
        }
    }
    none("trailing whitespace", &found);
}

/// Lock files must install from whatever registry the reader uses.
#[test]
fn npm_lock_files_name_no_host() {
    for name in tracked() {
        if name.ends_with("package-lock.json") {
            let text = read(&name);
            assert!(text.contains("\"integrity\""), "{name:?} has hashes");
            assert!(
                !text.contains("\"resolved\""),
                "{name:?} names the registry that made it"
            );
        }
    }
}

/// `.ci/run` runs the very commands that the README tells.
#[test]
fn the_readme_has_its_two_commands() {
    let readme = read(Path::new("README.md"));
    for (marker, program) in [
        ("<!-- run -->", "cargo run"),
        ("<!-- test -->", "cargo test"),
    ] {
        let command = command_after(&readme, marker);
        assert!(command.starts_with(program), "after {marker}: {command:?}");
    }
}

/// The code block that follows a marker line.
fn command_after<'a>(readme: &'a str, marker: &str) -> &'a str {
    let (_, rest) = readme
        .split_once(marker)
        .unwrap_or_else(|| panic!("README.md lacks {marker}"));
    let (between, block) = rest.split_once("```").expect("a code block");
    assert!(
        between.trim().is_empty(),
        "text between {marker} and its code block: {between:?}"
    );
    let (_language, code) = block.split_once('\n').expect("a language line");
    code.split("```").next().unwrap_or_default().trim()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"));
    for document in documents {
        let text = std::fs::read_to_string(root().join(&document)).unwrap();
        let folder = root().join(&document).parent().unwrap().to_owned();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://");
            assert!(
                elsewhere || folder.join(file).exists(),
                "{}: no {target}",
                document.display()
            );
        }
    }
}

/// Of headings as GitHub names them.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.trim().to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

#[test]
fn links_to_headings_and_names_of_source_files_are_right() {
    let documents = with_extension(&["md"]);
    let mut wrong = Vec::new();
    for (name, text) in &documents {
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let Some((file, heading)) = link.split_once('#').filter(|_| !link.contains("://"))
            else {
                continue;
            };
            let to = match file {
                "" => name.clone(),
                file => name.parent().unwrap().join(file),
            };
            let of = documents.iter().find(|(other, _)| *other == to);
            let mut headings = of.iter().flat_map(|(_, text)| text.lines());
            if !headings.any(|line| {
                line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading
            }) {
                wrong.push(format!("{}: {link}", name.display()));
            }
        }
        for path in text
            .split('`')
            .filter(|text| text.starts_with("src/") && !text.contains(char::is_whitespace))
        {
            if !root().join(path).exists() {
                wrong.push(format!("{}: {path}", name.display()));
            }
        }
    }
    none("these lead nowhere", &wrong);
}
