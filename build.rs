//! Names the commit that is built, for `--version` and `build_info`: `PENSTOCK_COMMIT` if it is set, else what git says,
//! else `unknown`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PENSTOCK_COMMIT");
    let set = std::env::var("PENSTOCK_COMMIT").ok();
    let commit = set
        .filter(|commit| is_plain(commit))
        .or_else(commit_of_git)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=PENSTOCK_COMMIT={commit}");
}

fn commit_of_git() -> Option<String> {
    // Unpacked inside of another repository, its commit is not ours.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // The log of HEAD grows with each commit and checkout. A path that is missing would rebuild every time.
    for name in ["logs/HEAD", "HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short", "HEAD"]).filter(|commit| is_plain(commit))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn is_plain(commit: &str) -> bool {
    (1..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_graphic())
}
