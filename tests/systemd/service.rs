//! The package on a machine that a real systemd booted: installed, started, killed, reloaded, hung, misconfigured, upgraded, removed, by
//! the commands that docs/systemd.md tells.

use penstock_loadtest::{Pace, RelayOptions, RelayServer, World};

use crate::machine::{self, Machine, package};

const EVENTS: u64 = 6_000;
const WORKER: &str = "penstock@0";
const STATUS: &str = "systemctl show --property StatusText --value penstock@0";
const JOURNAL: &str = "journalctl --unit penstock@0 --output cat --no-pager";

/// A worker on a machine of its own.
struct Service<'a> {
    machine: Machine,
    relay: &'a RelayServer,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_package_is_a_service() {
    if !machine::can_be_had() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    package::package(folder.path());
    let world = World::of(86, 50, EVENTS);
    let options = RelayOptions {
        pace: Pace::Manual,
        published: 1_000,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let machine = Machine::boot(folder.path()).await;
    let service = Service {
        machine,
        relay: &relay,
    };
    service.is_installed();
    service.starts().await;
    service.is_in_its_sandbox();
    service.asks_for_its_token();
    service.comes_back_after_a_kill().await;
    service.takes_up_what_may_change().await;
    service.is_ended_when_it_hangs().await;
    service.stays_down_after_a_mistake().await;
    service.is_upgraded().await;
    service.holds_all(&world).await;
    service.is_removed();
}

impl Service<'_> {
    fn configure(&self, more: &str) {
        let url = self.relay.url();
        let text = format!(
            "relay.urls = [\"{url}\"]\nrelay.start = \"oldest\"\nstore.embedded.dir = \"/var/lib/penstock\"\n\
             store.embedded.min_free = \"16MiB\"\nidentity.plc_url = \"http://127.0.0.1:1\"\n\
             http.listen = \"127.0.0.1:0\"\n{more}"
        );
        self.machine.writes("/etc/penstock/penstock.toml", &text);
    }

    fn is_installed(&self) {
        self.machine.installs();
        let user = self.machine.prints("id --name --user penstock");
        assert_eq!(user, "penstock");
        let failed = self.machine.prints("systemctl --failed --quiet --plain");
        assert_eq!(failed, "");
        self.configure("");
    }

    /// By the target, and `systemctl start` of a worker returns once it is live.
    async fn starts(&self) {
        let enable = "systemctl enable penstock@0 && systemctl start penstock.target";
        self.machine.prints(enable);
        self.machine.prints("systemctl start penstock@0");
        assert_eq!(self.machine.property(WORKER, "ActiveState"), "active");
        self.machine
            .until(STATUS, |said| said.starts_with("live, lag "))
            .await;
        self.goes_on().await;
    }

    fn is_in_its_sandbox(&self) {
        let of_it = |file: &str| {
            let script =
                format!("cat /proc/$(systemctl show --property MainPID --value penstock@0)/{file}");
            self.machine.prints(&script)
        };
        let status = of_it("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().split_whitespace().next().unwrap().to_owned()
        };
        let root = self.machine.prints("id --user penstock");
        assert_eq!(field("Uid:"), root);
        assert_eq!(field("CapEff:"), "0000000000000000");
        assert_eq!(field("CapBnd:"), "0000000000000000");
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        // As many as the unit asks for, if this machine gives systemd itself so many.
        let files = |process: &str| {
            let limits = format!("prlimit --nofile --noheadings --output HARD --pid {process}");
            self.machine.prints(&limits).parse::<u64>().unwrap()
        };
        let main = "$(systemctl show --property MainPID --value penstock@0)";
        assert_eq!(files(main), files("1").min(65_536));
        let mounts = of_it("mountinfo");
        let is_read_only = |path: &str| {
            let at = |line: &&str| line.split(' ').nth(4) == Some(path);
            let options = mounts
                .lines()
                .rev()
                .find(at)
                .and_then(|line| line.split(' ').nth(5));
            options.unwrap().starts_with("ro")
        };
        assert!(is_read_only("/"), "{mounts}");
        assert!(!is_read_only("/var/lib/penstock"), "{mounts}");
        let analyze = "systemd-analyze security --threshold=15 --no-pager penstock@0";
        self.machine.prints(analyze);
    }

    /// The one that the package made, which only root may read.
    fn asks_for_its_token(&self) {
        let said = self
            .machine
            .prints(&format!("{JOURNAL} | grep 'serving HTTP'"));
        let serving: serde_json::Value = serde_json::from_str(&said).unwrap();
        let address = serving["address"].as_str().unwrap();
        let answer = |more: &str| {
            let url = format!("http://{address}/admin/backfill/status");
            let curl = "curl --silent --output /dev/null --write-out '%{http_code}'";
            self.machine.prints(&format!("{curl} {more} {url}"))
        };
        assert_eq!(answer(""), "401");
        let token = "/etc/penstock/credentials/admin_token";
        assert_eq!(
            answer(&format!(
                "--header \"authorization: Bearer $(cat {token})\""
            )),
            "200"
        );
        let mode = format!("stat --format '%U %a' {token} $(dirname {token})");
        assert_eq!(self.machine.prints(&mode), "root 600\nroot 700");
    }

    async fn comes_back_after_a_kill(&self) {
        self.relay.publish(500);
        self.machine
            .prints("systemctl kill --signal KILL penstock@0");
        self.machine.until_back(WORKER, 1).await;
        self.goes_on().await;
    }

    async fn takes_up_what_may_change(&self) {
        self.configure("log.level = \"debug\"\npipeline.lanes = 3");
        self.machine.prints("systemctl reload penstock@0");
        for (key, told) in [
            ("pipeline.lanes", "needs a restart: it was not taken up"),
            ("log.level", "was taken up"),
        ] {
            let key = format!("\"key\":\"{key}\"");
            let names = |line: &str| line.contains(&key) && line.contains(told);
            let told = |said: &str| said.lines().any(names);
            self.machine.until(JOURNAL, told).await;
        }
        self.configure("");
        self.goes_on().await;
    }

    /// A process that does nothing at all gives no sign of life.
    async fn is_ended_when_it_hangs(&self) {
        self.machine.writes(
            "/etc/systemd/system/penstock@.service.d/impatient.conf",
            "[Service]\nWatchdogSec=6s\nTimeoutAbortSec=1s",
        );
        self.machine
            .prints("systemctl daemon-reload && systemctl restart penstock@0");
        self.machine
            .prints("systemctl kill --signal STOP penstock@0");
        self.machine.until_back(WORKER, 1).await;
        self.goes_on().await;
        let said = self
            .machine
            .prints(&format!("{JOURNAL} | grep --ignore-case watchdog"));
        assert!(said.contains("Watchdog timeout"), "{said}");
        self.machine
            .prints("rm -r /etc/systemd/system/penstock@.service.d && systemctl daemon-reload");
    }

    async fn stays_down_after_a_mistake(&self) {
        self.configure("pipeline.lanes = \"many\"");
        self.machine.prints("systemctl restart penstock@0 || true");
        self.machine
            .until(
                "systemctl show --property ActiveState --value penstock@0",
                |state| state == "failed",
            )
            .await;
        assert_eq!(self.machine.property(WORKER, "ExecMainStatus"), "78");
        let said = self.machine.prints(&format!("{JOURNAL} --lines 20"));
        let named = |line: &str| line.contains("pipeline.lanes") && line.contains("many");
        assert!(said.lines().any(named), "{said}");
        self.configure("");
        self.machine.prints("systemctl restart penstock@0");
        self.goes_on().await;
    }

    async fn is_upgraded(&self) {
        let before = self.machine.property(WORKER, "MainPID");
        self.machine
            .prints("apt-get install --yes --quiet --reinstall /opt/packages/penstock_*.deb");
        let process = "systemctl show --property MainPID --value penstock@0";
        self.machine
            .until(process, |now| now != before && now != "0")
            .await;
        self.machine.prints("systemctl start penstock@0");
        self.goes_on().await;
    }

    /// As those who run it look at it.
    async fn holds_all(&self, world: &World) {
        self.relay.publish_all();
        self.is_durable().await;
        self.machine.prints("systemctl stop penstock.target");
        assert_eq!(self.machine.property(WORKER, "Result"), "success");
        let (dump, repos) = (
            self.machine.penstock("dump"),
            self.machine.penstock("repos"),
        );
        let diff = penstock_loadtest::check(&world.oracle, dump.as_bytes(), Some(repos.as_bytes()));
        let diff = diff.unwrap();
        assert!(diff.is_empty() && diff.records > 0, "{diff}");
    }

    /// With its credentials, but not with what it holds.
    fn is_removed(&self) {
        self.machine.prints("apt-get purge --yes --quiet penstock");
        self.machine
            .prints("test ! -e /etc/penstock && test -e /var/lib/penstock/db");
        self.machine.prints("! systemctl cat penstock@0");
    }

    /// What the relay publishes next becomes durable.
    async fn goes_on(&self) {
        self.relay.publish(100);
        self.is_durable().await;
    }

    async fn is_durable(&self) {
        self.machine.until_durable(0, self.relay.head()).await;
    }
}
