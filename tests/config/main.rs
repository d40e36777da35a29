//! The configuration as users meet it: every source, every kind of mistake, and the real binary.

mod command;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock::config::{
    BackfillDays, Config, Loaded, Mistakes, Origin, Sources, VerifyCids, default_file, keys,
};

/// Sources of a test's own: nothing of the environment.
#[derive(Default)]
struct Given(Sources);

impl Given {
    fn file(mut self, path: &Path) -> Self {
        self.0.file = Some(path.to_owned());
        self
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.0.variables.push((name.into(), value.into()));
        self
    }

    fn set(mut self, setting: &str) -> Self {
        self.0.set.push(setting.to_owned());
        self
    }

    fn load(&self) -> Result<Loaded, Mistakes> {
        Config::load(&self.0)
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// The only mistake, printed.
    fn mistake(&self) -> String {
        let mistakes = self.load().unwrap_err().0;
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        mistakes[0].to_string()
    }
}

fn given() -> Given {
    Given::default()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn origin(loaded: &Loaded, key: &str) -> Origin {
    let setting = loaded.settings.iter().find(|s| s.key == key).unwrap();
    setting.origin.clone()
}

fn value(loaded: &Loaded, key: &str) -> String {
    let setting = loaded.settings.iter().find(|s| s.key == key).unwrap();
    setting.value.clone()
}

#[test]
fn everything_has_a_default() {
    let config = given().config();
    assert_eq!(config.relay.urls[0].to_string(), "wss://bsky.network");
    assert_eq!(config.backfill.days, BackfillDays::Off);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8400");
    assert_eq!(config.http.socket, Path::new("penstock-data/penstock.sock"));
    assert_eq!(config.pipeline.max_bytes, 48 << 20);
    assert_eq!(config.pipeline.batch_age, Duration::from_millis(20));
    assert_eq!(config.verify.cids, VerifyCids::All);
    assert!(config.pipeline.lanes > 0);
    assert!(config.collections.is_all());
    assert!(config.http.admin_token.is_none());
}

#[test]
fn flags_overrule_variables_overrule_the_file_overrules_defaults() {
    let folder = Folder::new();
    let file = folder.write(
        "p.toml",
        "[relay]\nread_timeout = \"41s\"\nconnect_timeout = \"41s\"\nbackoff_max = \"41s\"\n",
    );
    let loaded = given()
        .file(&file)
        .var("PENSTOCK_RELAY__READ_TIMEOUT", "42s")
        .var("PENSTOCK_RELAY__CONNECT_TIMEOUT", "42s")
        .set("relay.read_timeout=40s")
        .set("relay.read_timeout = 43s")
        .load()
        .unwrap();
    let relay = &loaded.config.relay;
    assert_eq!(relay.read_timeout, Duration::from_secs(43));
    assert_eq!(relay.connect_timeout, Duration::from_secs(42));
    assert_eq!(relay.backoff_max, Duration::from_secs(41));
    assert_eq!(relay.ping_interval, Duration::from_secs(30));
    assert_eq!(origin(&loaded, "relay.read_timeout"), Origin::Flag("--set"));
    assert_eq!(
        origin(&loaded, "relay.connect_timeout").to_string(),
        "variable PENSTOCK_RELAY__CONNECT_TIMEOUT"
    );
    assert_eq!(
        origin(&loaded, "relay.backoff_max"),
        Origin::File(file, Some(4))
    );
    assert_eq!(origin(&loaded, "relay.ping_interval"), Origin::Default);
}

#[test]
fn the_first_file_that_exists_is_read() {
    let folder = Folder::new();
    let second = folder.write("second.toml", "store.json = true");
    let third = folder.write("third.toml", "store.index = false");
    let mut sources = given();
    sources.0.default_files = vec![folder.0.path().join("first.toml"), second, third.clone()];
    let config = sources.config();
    assert!(config.store.json && config.store.index);
    // A file that is named is the only one.
    let named = sources.var("PENSTOCK_CONFIG", third.to_str().unwrap());
    let config = named.config();
    assert!(!config.store.json && !config.store.index);
    let missing = folder.0.path().join("none.toml");
    let mistake = named.file(&missing).mistake();
    assert!(mistake.contains("none.toml: can't be read"), "{mistake}");
    assert!(mistake.contains("--config"), "{mistake}");
}

#[test]
fn every_key_takes_its_variables() {
    for key in keys() {
        let default = |name: &str| given().var(name, key.default).load();
        for name in [Some(key.variable()), key.alias.map(str::to_owned)] {
            let Some(name) = name else { continue };
            if key.secret {
                assert!(default(&name).is_err(), "{name}");
                continue;
            }
            let loaded = default(&name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(origin(&loaded, key.name), Origin::Variable(name));
        }
    }
    let loaded = given()
        .var("RELAY_URL", "one.example, http://127.0.0.1:2470")
        .var("COLLECTIONS", "app.bsky.feed.post,app.bsky.*")
        .var("BACKFILL_DAYS", "-1")
        .var("DATA_DIR", "/tmp/x")
        .load()
        .unwrap();
    let config = &loaded.config;
    assert_eq!(config.relay.urls[1].to_string(), "ws://127.0.0.1:2470");
    assert_eq!(config.collections.to_string(), "app.bsky.*");
    assert_eq!(config.backfill.days, BackfillDays::All);
    assert_eq!(config.http.socket, Path::new("/tmp/x/penstock.sock"));
    assert_eq!(value(&loaded, "http.socket"), "\"/tmp/x/penstock.sock\"");
    assert_eq!(
        origin(&loaded, "relay.urls").to_string(),
        "variable RELAY_URL"
    );
}

#[test]
fn two_spellings_of_one_variable_must_agree() {
    let both = |second: &str| {
        given()
            .var("PENSTOCK_WORKER__ID", "0")
            .var("WORKER_ID", second)
    };
    assert_eq!(both("0").config().worker.id, 0);
    let mistake = both("1").load().unwrap_err().to_string();
    assert!(
        mistake.contains("differs from variable PENSTOCK_WORKER__ID"),
        "{mistake}"
    );
}

#[test]
fn tokens_stay_as_they_were_written() {
    for token in ["0123456789", "1e5", "true", "0x10", "[a]", "\"q\"", "a=b,c"] {
        let config = given()
            .var("ADMIN_TOKEN", token)
            .set(&format!("http.read_token={token}2"))
            .config();
        assert_eq!(config.http.admin_token.unwrap().expose(), token);
        assert_eq!(
            config.http.read_token.unwrap().expose(),
            format!("{token}2")
        );
    }
    let folder = Folder::new();
    let file = folder.write("p.toml", "http.admin_token = 123");
    let mistake = given().file(&file).mistake();
    assert!(
        mistake.contains("[redacted]") && mistake.contains("quotes"),
        "{mistake}"
    );
    assert!(!mistake.contains("123"), "{mistake}");
}

#[test]
fn tokens_come_from_files_too() {
    let folder = Folder::new();
    let path = folder.write("token", "0123456789\r\n");
    let with = |path: &Path| given().var("ADMIN_TOKEN_FILE", path.to_str().unwrap());
    let token = with(&path).config().http.admin_token.unwrap();
    assert_eq!(token.expose(), "0123456789");
    let both = with(&path).var("ADMIN_TOKEN", "hunter2").mistake();
    assert!(
        both.contains("http.admin_token is set too (variable ADMIN_TOKEN)"),
        "{both}"
    );
    assert!(!both.contains("hunter2"));
    for (text, problem) in [
        ("", "the file is empty"),
        ("\n", "the file is empty"),
        ("two\nlines\n", "the file holds no token"),
        ("with space", "the file holds no token"),
    ] {
        let mistake = with(&folder.write("bad", text)).mistake();
        assert!(mistake.contains(problem), "{mistake}");
        assert!(
            !mistake.contains("lines") && !mistake.contains("with space"),
            "{mistake}"
        );
    }
    let long = with(&folder.write("long", &"x".repeat(5000))).mistake();
    assert!(long.contains("1 to 1024"), "{long}");
    let missing = with(&folder.0.path().join("none")).mistake();
    assert!(missing.contains("http.admin_token_file") && missing.contains("can't be read"));
    let same = given()
        .var("ADMIN_TOKEN", "x1")
        .var("READ_TOKEN", "x1")
        .mistake();
    assert!(same.contains("http.read_token = [redacted]"), "{same}");
}

#[test]
fn secrets_are_never_shown() {
    let sources = given()
        .var("ADMIN_TOKEN", "hunter2")
        .set("http.read_token=hunter3");
    let loaded = sources.load().unwrap();
    assert!(!format!("{loaded:?}").contains("hunter"));
    assert_eq!(value(&loaded, "http.admin_token"), "\"[redacted]\"");
    let wrong = given()
        .var("ADMIN_TOKEN", "hunter 2")
        .var("RELAY_URL", "wss://me:hunter4@relay.example");
    let mistakes = wrong.load().unwrap_err();
    assert_eq!(mistakes.0.len(), 2);
    assert!(!mistakes.to_string().contains("hunter"), "{mistakes}");
}

#[test]
fn each_wrong_value_says_what_is_allowed() {
    for (setting, allowed) in [
        ("relay.urls=", "1 to 16 relays"),
        ("relay.urls=ftp://x", "host, host:port, http(s)://…"),
        ("relay.urls=a.b,wss://a.b", "named twice"),
        ("relay.read_timeout=60", "with a unit (ms, s, m, h, d)"),
        ("relay.read_timeout=60 bananas", "with a unit"),
        ("relay.read_timeout=0s", "from 100ms to 1d"),
        ("relay.ping_interval=60s", "less than relay.read_timeout"),
        ("relay.backoff_min=2m", "at most relay.backoff_max"),
        ("relay.max_frame=16parsecs", "KiB, MiB, GiB"),
        ("relay.max_frame=1", "from 64KiB to 256MiB"),
        ("backfill.days=4000", "a number of days up to 3652"),
        (
            "backfill.days=soon",
            "allowed: 0 (live only), a number of days",
        ),
        (
            "backfill.days=-2",
            "allowed: 0 (live only), a number of days",
        ),
        (
            "backfill.days=inf",
            "allowed: 0 (live only), a number of days",
        ),
        ("worker.id=-1", "a whole number from 0 to 255"),
        ("worker.id=1", "less than worker.count, which is 1"),
        ("worker.count=0", "from 1 to 256"),
        ("worker.count=257", "from 1 to 256"),
        ("worker.count=2", "ScyllaDB"),
        ("pipeline.lanes=many", "a whole number from 0 to 256"),
        ("pipeline.max_bytes=1MiB", "at least relay.max_frame"),
        ("pipeline.in_flight_bytes=1000000000GiB", "a size from"),
        (
            "pipeline.batch_bytes=65MiB",
            "at least pipeline.batch_bytes",
        ),
        ("store.json=yes", "allowed: true, false"),
        ("store.embedded.dir=", "allowed: a path"),
        (
            "store.scylla.user=penstock",
            "the file that holds its password",
        ),
        ("store.scylla.replication=0", "a number from 1 to 99"),
        (
            "store.scylla.replication=dc1:3,dc2",
            "a number from 1 to 99",
        ),
        ("store.scylla.consistency=ONE", "allowed: LOCAL_QUORUM"),
        ("store.scylla.keyspace=a b", "a letter"),
        (
            "collections=app.bsky.feed.post,nonsense",
            "'nonsense' is not allowed: NSIDs",
        ),
        ("collections=app.bsk*", "behind a dot"),
        ("http.listen=8400", "an IP address and a port"),
        ("http.read_token=", "is empty; leave it unset"),
        ("identity.plc_url=plc.directory", "http(s)://host[:port]"),
        ("net.ca_file=/nowhere/ca.pem", "can't be read"),
        ("net.ca_file=/", "is a folder"),
        ("verify.cids=some", "allowed: all, records, none"),
        ("accounts.on_deleted=keep", "allowed: purge, hide"),
        ("faults.share=5", "a percentage"),
        ("log.format=xml", "allowed: auto, text, json"),
        ("log.level=penstock=loud", "error, warn, info, debug, trace"),
        ("log.level", "allowed: --set key=value"),
        ("relay=x", "is a section"),
    ] {
        let mistake = given().set(setting).mistake();
        assert!(mistake.contains(allowed), "{setting}: {mistake}");
        assert!(
            mistake.contains("(flag --set)") || mistake.contains("(default)"),
            "{mistake}"
        );
        let key = setting.split('=').next().unwrap();
        let about_other = ["pipeline.batch_bytes", "store.scylla.user"].contains(&key);
        assert!(mistake.starts_with(key) || about_other, "{mistake}");
    }
    let long = format!("store.embedded.dir=/{}", "x".repeat(200));
    assert!(
        given()
            .set(&long)
            .mistake()
            .contains("too long for a Unix socket")
    );
}

#[test]
fn unknown_keys_name_the_nearest() {
    let folder = Folder::new();
    let file = folder.write(
        "p.toml",
        "colections = []\nread_timeout = \"1s\"\n[relay]\nurl = \"x\"\n[store.embeded]\ndir = \"x\"\n[stroe]\n",
    );
    let mistakes = given()
        .file(&file)
        .set("pipeline.max_byte=1MiB")
        .var("PENSTOCK_PIPELINE__MAX_FRAME", "1")
        .var("PENSTOCK_PIPELINE_MAX_BYTES", "256MiB")
        .var("PENSTOCK_PORT_8400_TCP", "from elsewhere")
        .var("PENSTOCK_TEST_SCALE", "10")
        .load()
        .unwrap_err();
    let text = mistakes.to_string();
    for line in [
        "colections (file {}:1): is not known; the nearest is collections",
        "relay.url (file {}:4): is not known; the nearest is relay.urls",
        "store.embeded.dir (file {}:6): is not known; the nearest is store.embedded.dir",
        "read_timeout (file {}:2): is not known; the nearest is relay.read_timeout",
        "stroe (file {}): is not known",
        "pipeline.max_byte (flag --set): is not known; the nearest is pipeline.max_bytes",
        "PENSTOCK_PIPELINE__MAX_FRAME (variable PENSTOCK_PIPELINE__MAX_FRAME): is not known; the nearest is PENSTOCK_PIPELINE__MAX_FRAMES",
        "PENSTOCK_PIPELINE_MAX_BYTES (variable PENSTOCK_PIPELINE_MAX_BYTES): is not known; the nearest is PENSTOCK_PIPELINE__MAX_BYTES",
    ] {
        let line = line.replace("{}", file.to_str().unwrap());
        assert!(text.contains(&line), "no '{line}' in\n{text}");
    }
    assert_eq!(mistakes.0.len(), 8, "{text}");
}

#[test]
fn files_hold_types_and_lists() {
    let folder = Folder::new();
    let load = |text: &str| given().file(&folder.write("p.toml", text)).load();
    let config = load(
        "collections = [\"app.bsky.*\", \"a.b.c\"]\nrelay.urls = \"a.b,c.d\"\npipeline.max_bytes = 134217728\n\
         backfill.days = -1\nverify.signatures = false\nworker.count = \"1\"\n[relay]\n[http]\n",
    );
    // A table may not follow dotted keys of the same name: that is TOML's own rule.
    assert!(config.unwrap_err().to_string().contains("is not TOML"));
    let config = load(
        "collections = [\"app.bsky.*\", \"a.b.c\"]\nrelay.urls = \"a.b,c.d\"\npipeline.max_bytes = 134217728\n\
         backfill.days = -1\nverify.signatures = false\nworker.count = \"1\"\n[http]\n",
    )
    .unwrap()
    .config;
    assert_eq!(config.collections.to_string(), "a.b.c,app.bsky.*");
    assert_eq!(config.relay.urls.len(), 2);
    assert_eq!(config.backfill.days, BackfillDays::All);
    for (text, problem) in [
        ("relay.read_timeout = 60", "with a unit"),
        ("store.json = \"maybe\"", "true, false"),
        ("store.embedded.dir = 5", "put it in quotes"),
        ("store.embedded.dir = [\"x\"]", "a single value"),
        ("collections = [5]", "array of strings"),
        ("collections = [\"a.b.c,d.e.f\"]", "array of strings"),
        ("relay = 5", "is a section"),
        ("relay.max_frame = 1979-05-27", "relay.max_frame"),
        ("relay.max_frame = ", "is not TOML"),
        ("relay.max_frame = 1\nrelay.max_frame = 2", "is not TOML"),
    ] {
        let mistakes = load(text).unwrap_err().to_string();
        assert!(mistakes.contains(problem), "{text}: {mistakes}");
    }
    let large = load(&"#".repeat(2 << 20)).unwrap_err().to_string();
    assert!(large.contains("too large"), "{large}");
}

#[test]
fn what_is_not_text_is_refused() {
    let mut sources = given();
    let broken = OsString::from_vec(vec![0xff, 0xfe]);
    sources
        .0
        .variables
        .push(("DATA_DIR".into(), broken.clone()));
    sources.0.variables.push((broken.clone(), broken));
    assert!(
        sources
            .mistake()
            .contains("store.embedded.dir (variable DATA_DIR): is not UTF-8")
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let folder = Folder::new();
    let file = folder.write("p.toml", "[relay]\nread_timeout = 5\n[nonsense]\nx = 1\n");
    let mistakes = given()
        .file(&file)
        .var("WORKER_COUNT", "999")
        .var("PENSTOCK_NO__SUCH", "1")
        .set("verify.cids=maybe")
        .set("store.scylla.user=me")
        .load()
        .unwrap_err();
    let mut found: Vec<&str> = mistakes.0.iter().map(|m| m.key.as_str()).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "PENSTOCK_NO__SUCH",
            "nonsense.x",
            "relay.read_timeout",
            "store.scylla.password_file",
            "verify.cids",
            "worker.count"
        ]
    );
    assert!(
        mistakes
            .to_string()
            .starts_with("6 mistakes in the configuration")
    );
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/penstock.toml");

#[test]
fn the_file_of_defaults_is_what_the_code_says() {
    let made = default_file();
    if std::env::var_os("PENSTOCK_BLESS").is_some() {
        fs::write(FILE, &made).unwrap();
    }
    let kept = fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        kept == made,
        "config/penstock.toml differs from the code; refresh it: PENSTOCK_BLESS=1 cargo test --test config"
    );
}

#[test]
fn the_file_of_defaults_says_what_happens_without_it() {
    let folder = Folder::new();
    let mut open = String::new();
    for line in default_file().lines() {
        open.push_str(line.strip_prefix("# ").unwrap_or(line));
        open.push('\n');
    }
    let path = folder.write("p.toml", &open);
    let with = given().file(&path).load().unwrap();
    let without = given().load().unwrap();
    assert_eq!(
        format!("{:?}", with.config),
        format!("{:?}", without.config)
    );
    for setting in &with.settings {
        let from_file = matches!(&setting.origin, Origin::File(_, Some(_)));
        assert!(from_file, "{setting:?}");
    }
}

#[test]
fn a_filter_too_long_for_the_ledger_is_refused() {
    let names = |count: usize| -> String {
        let names = (0..count).map(|n| format!("com.example.thing{n:06}"));
        names.collect::<Vec<_>>().join(",")
    };
    given().var("COLLECTIONS", &names(600)).config();
    let mistake = given().var("COLLECTIONS", &names(700)).mistake();
    assert!(mistake.contains("at most 16384 together"), "{mistake}");
}

#[test]
fn dids_to_skip_are_given_or_in_files() {
    let (one, two) = ("did:web:one.example", "did:web:two.example");
    let folder = Folder::new();
    let text = format!("# gone\n{two}  # asked for it\n\n");
    let path = folder.write("skip.txt", &text);
    for named in [
        path.display().to_string(),
        format!("file:{}", path.display()),
    ] {
        let config = given()
            .set(&format!("backfill.skip_dids={one},{named}"))
            .config();
        assert_eq!(config.backfill.skip_dids, [one, two]);
    }
    let text = format!("alice.test\n{two}\n@bob\n");
    let bad = folder.write("bad.txt", &text);
    let none = folder.0.path().join("none");
    let entries = format!("carol,{},{}", bad.display(), none.display());
    let mistakes = given()
        .set(&format!("backfill.skip_dids={entries}"))
        .load()
        .unwrap_err();
    let said: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("\"carol\" is not a DID"), "{said:?}");
    let at = |line: usize| format!("file {}:{line}", bad.display());
    assert!(
        said[1].contains(&at(1)) && said[1].contains("alice.test"),
        "{said:?}"
    );
    assert!(
        said[2].contains(&at(3)) && said[2].contains("@bob"),
        "{said:?}"
    );
    assert!(said[3].contains("none can't be read"), "{said:?}");
}

#[test]
fn repositories_spill_beside_the_store_unless_told_where() {
    let loaded = given().var("DATA_DIR", "/data").load().unwrap();
    assert_eq!(loaded.config.spill_dir(), Path::new("/data/spill"));
    assert_eq!(value(&loaded, "backfill.temp_dir"), "\"/data/spill\"");
    let set = given().set("backfill.temp_dir=/big").config();
    assert_eq!(set.spill_dir(), Path::new("/big"));
}
