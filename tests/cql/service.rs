//! Two workers from the package on a machine that a real systemd booted, by the commands of docs/systemd.md and docs/runbook.md: one is
//! killed, one is reloaded, one is lost, and they become three.

use penstock_loadtest::{Pace, RelayOptions, RelayServer, World};

use crate::keyspaces::{Keyspace, SYNC_LAG};
use crate::machine::{self, Machine, package};

const EVENTS: u64 = 4_000;

/// The workers on their machine.
struct Workers {
    machine: Machine,
    relay: RelayServer,
    keyspace: Keyspace,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_from_the_package_by_the_runbook() {
    if !machine::can_be_had() {
        return;
    }
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    package::package(folder.path());
    let world = World::of(87, 50, EVENTS);
    let options = RelayOptions {
        pace: Pace::Manual,
        published: 1_000,
        ..RelayOptions::default()
    };
    let workers = Workers {
        machine: Machine::boot(folder.path()).await,
        relay: RelayServer::start(&world, options).unwrap(),
        keyspace,
    };
    workers.start().await;
    workers.one_is_killed().await;
    workers.one_is_reloaded().await;
    workers.one_is_lost_and_comes_back().await;
    workers.become_three().await;
    workers.hold_all(&world).await;
}

impl Workers {
    fn configure(&self, count: u16, more: &str) {
        let (cluster, relay) = (self.keyspace.cluster(), self.relay.url());
        let mut text = format!(
            "relay.urls = [\"{relay}\"]\nrelay.start = \"oldest\"\nrelay.failover_overlap = \"1s\"\nidentity.plc_url = \"http://127.0.0.1:1\"\n\
             http.listen = \"127.0.0.1:0\"\nstore.embedded.dir = \"/var/lib/penstock\"\nstore.scylla.nodes = {:?}\n\
             store.scylla.keyspace = {:?}\nstore.scylla.replication = \"1\"\nstore.scylla.sync_lag = \"{}ms\"\n\
             worker.count = {count}\n{more}\n",
            cluster.nodes,
            self.keyspace.name(),
            SYNC_LAG.as_millis()
        );
        if let (Some(user), Some(password)) = (cluster.user(), cluster.password()) {
            let file = "/etc/penstock/scylla-password";
            self.machine.writes("/root/password", &password);
            let install = format!("install -m 640 -g penstock /root/password {file}");
            self.machine.prints(&install);
            text +=
                &format!("store.scylla.user = {user:?}\nstore.scylla.password_file = {file:?}\n");
        }
        self.machine.writes("/etc/penstock/penstock.toml", &text);
    }

    async fn start(&self) {
        self.machine.installs();
        self.configure(2, "");
        self.machine
            .prints("systemctl enable penstock@0 penstock@1");
        self.machine.prints("systemctl restart penstock.target");
        self.machine.prints("systemctl start penstock@0 penstock@1");
        self.go_on(&[0, 1]).await;
    }

    async fn one_is_killed(&self) {
        self.machine
            .prints("systemctl kill --signal KILL penstock@1");
        self.machine.until_back("penstock@1", 1).await;
        self.go_on(&[0, 1]).await;
    }

    async fn one_is_reloaded(&self) {
        self.configure(2, "backfill.per_host = 3\nlog.format = \"text\"");
        self.machine.prints("systemctl reload penstock@1");
        let journal = "journalctl --unit penstock@1 --output cat --no-pager";
        let taken_up = |said: &str| {
            let keys = ["backfill.per_host", "log.format"];
            let lines = || said.lines().filter(|line| line.contains("was taken up"));
            keys.iter()
                .all(|key| lines().any(|line| line.contains(key)))
        };
        self.machine.until(journal, taken_up).await;
        self.go_on(&[0, 1]).await;
    }

    async fn one_is_lost_and_comes_back(&self) {
        self.machine.prints("systemctl stop penstock@1");
        self.go_on(&[0]).await;
        let gaps = "cd /; runuser --user penstock -- penstock gaps || echo status $?";
        let behind = |said: &str| {
            self.relay.publish(10);
            let is_behind =
                |line: &str| line.contains("slots 1-255/2") && line.contains("behind: ");
            said.lines().any(is_behind) && said.ends_with("status 1")
        };
        self.machine.until(gaps, behind).await;
        self.machine.prints("systemctl start penstock@1");
        self.go_on(&[0, 1]).await;
        let none = |said: &str| !said.contains("status ");
        self.machine.until(gaps, none).await;
    }

    async fn become_three(&self) {
        self.machine.prints("systemctl stop penstock.target");
        self.configure(3, "");
        self.machine.prints("systemctl enable penstock@2");
        self.machine.prints("systemctl start penstock.target");
        self.machine
            .prints("systemctl start penstock@0 penstock@1 penstock@2");
        self.go_on(&[0, 1, 2]).await;
    }

    async fn hold_all(&self, world: &World) {
        self.relay.publish_all();
        self.are_durable(&[0, 1, 2]).await;
        self.machine.prints("systemctl stop penstock.target");
        let (dump, repos) = (
            self.machine.penstock("dump"),
            self.machine.penstock("repos"),
        );
        let diff = penstock_loadtest::check(&world.oracle, dump.as_bytes(), Some(repos.as_bytes()));
        let diff = diff.unwrap();
        assert!(diff.is_empty() && diff.records > 0, "{diff}");
    }

    /// What the relay publishes next becomes durable.
    async fn go_on(&self, workers: &[u16]) {
        self.relay.publish(100);
        self.are_durable(workers).await;
    }

    async fn are_durable(&self, workers: &[u16]) {
        for worker in workers {
            self.machine.until_durable(*worker, self.relay.head()).await;
        }
    }
}
