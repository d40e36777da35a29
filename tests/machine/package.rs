//! The Debian package of the binary that is tested.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::has;

/// Whether what makes it is there, cargo-deb in the place where `tests/systemd/install` puts it, or the user's own.
pub fn can_be_made() -> bool {
    let binary = Path::new(env!("CARGO_BIN_EXE_penstock"));
    let mut target = binary.ancestors().skip(2);
    let own = target.next().unwrap().join("cargo-deb/bin/cargo-deb");
    (own.exists() || has("cargo-deb", "tests/systemd/install"))
        && has("dpkg-deb", "apt-get install dpkg")
        && has("python3", "apt-get install python3")
}

/// What a command prints; it must end well.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes the package of the binary that is tested.
pub fn package(folder: &Path) -> PathBuf {
    let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/build-deb"));
    build.arg(env!("CARGO_BIN_EXE_penstock")).arg(folder);
    let said = output(&mut build);
    PathBuf::from(said.trim())
}
