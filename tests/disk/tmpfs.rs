//! A small disk that can be made larger.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A tmpfs, gone when this is dropped.
pub struct Disk(TempDir);

impl Disk {
    /// Mounts one of so many MiB. `None`, and a word on why, where this process may not: it takes root.
    pub fn mount(test: &str, mib: u64) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary folder");
        let size = format!("size={mib}M");
        match mount(&["-t", "tmpfs", "-o", &size, "penstock-test"], dir.path()) {
            Ok(()) => Some(Self(dir)),
            Err(why) => {
                let message =
                    format!("SKIPPED {test}: no tmpfs can be mounted ({why}); it runs as root\n");
                // Around the harness, which hides what passing tests print.
                let _ = std::io::stderr().write_all(message.as_bytes());
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn enlarge(&self, mib: u64) {
        let size = format!("remount,size={mib}M");
        mount(&["-o", &size], self.path()).expect("a larger disk");
    }

    /// Bytes that may still be written.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("its size");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn mount(options: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(options).arg(at).output();
    let output = output.map_err(|error| format!("mount: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(words.trim().to_owned()),
    }
}
