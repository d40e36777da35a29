//! File descriptors: as many as the process may have.

use std::process::Stdio;

use tokio::process::Command;

use crate::site::Site;

/// Starts the daemon by a shell that sets its limits first; gives what the log says of them, and what the system does.
async fn limits(ulimit: &str) -> (String, String) {
    let site = Site::new("[log]\nlevel = \"debug\"\n").await;
    let penstock = site.installation.command(&["run"]);
    let penstock = penstock.as_std();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{ulimit}; exec \"$@\""), "sh"])
        .arg(penstock.get_program())
        .args(penstock.get_args())
        .env_clear()
        .envs(
            penstock
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(penstock.get_current_dir().unwrap())
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut daemon = site.installation.spawn(&mut command);
    daemon.address().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    let limits = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limits: Vec<&str> = limits.unwrap().split_whitespace().skip(3).take(2).collect();
    let limits = limits.join(" ");
    let words = daemon.words();
    daemon.stop().await;
    (words, limits)
}

const FEWER: &str = "fewer file descriptors than may be needed";

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_limit_is_raised_to_the_highest() {
    let (words, limits) = limits("ulimit -Sn 200; ulimit -Hn 5000").await;
    assert_eq!(limits, "5000 5000");
    assert!(words.contains("\"before\":200,\"allowed\":5000"), "{words}");
    assert!(!words.contains(FEWER), "{words}");
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn too_few_are_told() {
    let (words, limits) = limits("ulimit -Sn 500; ulimit -Hn 500").await;
    assert_eq!(limits, "500 500");
    assert!(words.contains(FEWER), "{words}");
    assert!(words.contains("\"allowed\":500,\"needed\":3904"), "{words}");
}
