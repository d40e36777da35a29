//! The Debian package: made by the script that the docs tell, unpacked into a clean folder, and run from there.

use std::fs;
use std::path::Path;
use std::process::Command;

use penstock_loadtest::{RelayOptions, RelayServer, World};

use crate::file;
use crate::installed::{Installation, truth::Truth};
use crate::machine::package::{can_be_made, output, package};

/// What must be in it.
const FILES: &[&str] = &[
    "usr/bin/penstock",
    "usr/lib/systemd/system/penstock@.service",
    "usr/lib/systemd/system/penstock.target",
    "usr/lib/sysusers.d/penstock.conf",
    "usr/lib/tmpfiles.d/penstock.conf",
    "etc/penstock/penstock.toml",
    "etc/penstock/penstock.env",
    "usr/share/man/man1/penstock.1.gz",
    "usr/share/man/man1/penstock-run.1.gz",
    "usr/share/bash-completion/completions/penstock",
    "usr/share/zsh/vendor-completions/_penstock",
    "usr/share/fish/vendor_completions.d/penstock.fish",
    "usr/share/doc/penstock/copyright",
    "usr/share/doc/penstock/third-party-licences.txt",
    "usr/share/doc/penstock/README.md",
    "usr/share/doc/penstock/docs/systemd.md",
    "usr/share/doc/penstock/config/penstock.toml",
    "usr/share/doc/penstock/compose.yaml",
    "usr/share/doc/penstock/dashboards/overview.json",
    "usr/share/doc/penstock/dashboards/provisioning/dashboards/penstock.yml",
    "usr/share/doc/penstock/dashboards/provisioning/datasources/prometheus.yml",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_package_runs_from_a_clean_folder() {
    if !can_be_made() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let deb = package(folder.path());
    let root = folder.path().join("root");
    output(Command::new("dpkg").arg("-x").args([&deb, &root]));
    for name in FILES {
        let length = fs::metadata(root.join(name)).map(|file| file.len());
        assert!(length.is_ok_and(|length| length > 0), "no {name}");
    }
    conffiles_and_scripts(&deb);
    let licences = root.join("usr/share/doc/penstock/third-party-licences.txt");
    let licences = fs::read_to_string(licences).unwrap();
    for part in ["\ntokio 1.", "\nfjall ", "Permission is hereby granted"] {
        assert!(licences.contains(part), "{part}");
    }
    assert!(
        !licences.contains("\nproptest "),
        "tests need it, users don't"
    );

    let binary = root.join("usr/bin/penstock");
    let version = output(Command::new(&binary).arg("--version"));
    let expected = format!("penstock {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected), "{version}");

    let world = World::of(85, 20, 1_000);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let installation = Installation::new(&relay).of(&binary);
    let mut daemon = installation.start();
    daemon.until_durable(relay.head()).await;
    daemon.stop().await;
    let truth = Truth::of(&world);
    truth.is_held_in_the_end(&installation).await;
}

/// What dpkg is told beside the files.
fn conffiles_and_scripts(deb: &Path) {
    let info = |what: &str| output(Command::new("dpkg-deb").arg("-I").arg(deb).arg(what));
    let mut conffiles: Vec<String> = info("conffiles").lines().map(str::to_owned).collect();
    conffiles.sort();
    let kept = ["/etc/penstock/penstock.env", "/etc/penstock/penstock.toml"];
    assert_eq!(conffiles, kept);
    let control = info("control");
    for depends in ["libc6", "procps", "systemd"] {
        assert!(control.contains(depends), "{control}");
    }
    let postinst = info("postinst");
    let order = [
        "systemd-sysusers",
        "systemd-tmpfiles",
        "admin_token",
        "try-restart",
    ];
    let places = order.map(|step| postinst.find(step));
    assert!(places.iter().all(Option::is_some), "{postinst}");
    assert!(places.is_sorted(), "{postinst}");
}

/// What operators find in `/etc/penstock` is what the units mean.
#[test]
fn the_configuration_that_is_installed_is_sound() {
    let sources = penstock::config::Sources {
        file: Some(file("systemd/penstock.toml")),
        ..Default::default()
    };
    let config = penstock::config::Config::load(&sources).unwrap().config;
    let dir = config.store.embedded.dir;
    assert_eq!(dir, Path::new("/var/lib/penstock"));
    let text = fs::read_to_string(file("systemd/penstock.toml")).unwrap();
    let mut all = String::new();
    for line in text.lines() {
        let setting = line.strip_prefix("# ").filter(|rest| rest.contains(" = "));
        all.push_str(setting.unwrap_or(line));
        all.push('\n');
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("penstock.toml");
    fs::write(&path, all).unwrap();
    let sources = penstock::config::Sources {
        file: Some(path),
        ..Default::default()
    };
    let config = penstock::config::Config::load(&sources).unwrap().config;
    assert_eq!(config.worker.count, 2, "the examples can be taken as well");
}
