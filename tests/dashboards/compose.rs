//! `compose.yaml` and what it starts with: every file that it mounts is there, images are pinned, ports are on loopback. No
//! container engine is needed, so none of it is run here.

use crate::{read, root};

/// The items of a YAML list of texts below this key, wherever it is, without quotes.
fn items(yaml: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.strip_prefix("- ").unwrap_or(line) != format!("{key}:") {
            continue;
        }
        while let Some(item) = lines.peek().and_then(|line| line.trim().strip_prefix("- ")) {
            found.push(item.trim_matches('"').to_owned());
            lines.next();
        }
    }
    found
}

/// The values below this key, wherever it is.
pub fn values<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let of = |line: &'a str| line.trim().strip_prefix(&format!("{key}: "));
    yaml.lines().filter_map(of).collect()
}

#[test]
fn what_is_mounted_is_there_and_may_not_be_written() {
    let compose = read("compose.yaml");
    let mounts = items(&compose, "volumes");
    let (files, volumes): (Vec<_>, Vec<_>) =
        mounts.iter().partition(|mount| mount.starts_with("./"));
    assert!(files.len() >= 3, "{mounts:?}");
    for mount in files {
        let (path, inside) = mount.split_once(':').unwrap();
        assert!(root().join(path).exists(), "{path} is mounted and missing");
        assert!(inside.ends_with(":ro"), "{mount} can be written to");
    }
    for volume in volumes {
        let name = volume.split(':').next().unwrap();
        let declared = compose.lines().any(|line| line == format!("  {name}:"));
        assert!(declared, "the volume {name} is not declared");
    }
}

#[test]
fn images_are_pinned_and_ports_are_on_loopback() {
    let compose = read("compose.yaml");
    let images = values(&compose, "image");
    assert_eq!(images.len(), 3);
    for image in images {
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        let numbers = tag.trim_start_matches('v').split('.');
        let pinned = numbers.clone().count() == 3;
        assert!(
            pinned && numbers.clone().all(|part| part.parse::<u32>().is_ok()),
            "{image} names no release"
        );
    }
    let ports = items(&compose, "ports");
    assert_eq!(ports.len(), 3);
    for port in ports {
        assert!(port.starts_with("127.0.0.1:"), "{port} is open to others");
    }
}

#[test]
fn grafana_finds_its_source_and_its_dashboards() {
    let source = read("dashboards/provisioning/datasources/prometheus.yml");
    let provider = read("dashboards/provisioning/dashboards/penstock.yml");
    let compose = read("compose.yaml");
    assert_eq!(values(&source, "type"), ["prometheus"]);
    let folder = values(&provider, "path")[0];
    let mounted = format!("./dashboards:{folder}:ro");
    assert!(items(&compose, "volumes").contains(&mounted), "{mounted}");
    let targets = items(&read("dashboards/prometheus.yml"), "targets");
    for worker in ["host.docker.internal:8400", "host.docker.internal:8401"] {
        assert!(targets.iter().any(|target| target == worker), "{worker}");
    }
    assert!(
        items(&compose, "extra_hosts").contains(&"host.docker.internal:host-gateway".to_owned())
    );
}
