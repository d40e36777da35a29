//! How the store gets in: TLS, users, passwords, and what it says where it is refused.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use penstock::config::Secret;
use penstock::decode::Tid;
use penstock::relay::tls_config;
use penstock::store::StoreError;
use penstock::store::scylla::{ScyllaOptions, ScyllaStore};
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::contract::{DID, POST, one};
use crate::faults::{Shaken, in_time};
use crate::keyspaces::{Keyspace, open};

/// Never part of a message.
const WRONG: &str = "swordfish-17";

/// The cluster of the tests' own, which has an encrypted port and asks for a password.
async fn keyspace() -> Option<Keyspace> {
    let keyspace = Keyspace::fresh().await?;
    keyspace.cluster().is_own().then_some(keyspace)
}

/// The encrypted port of the first node.
fn encrypted(cluster: &Cluster) -> String {
    let (host, _) = cluster.nodes[0].rsplit_once(':').unwrap();
    format!("{host}:{}", cluster.ssl_port.unwrap())
}

fn with_tls(keyspace: &Keyspace, ca: Option<&Path>) -> ScyllaOptions {
    ScyllaOptions {
        nodes: vec![encrypted(keyspace.cluster())],
        tls: Some(tls_config(ca).unwrap()),
        ..keyspace.options()
    }
}

async fn refused(options: ScyllaOptions) -> StoreError {
    let opened = in_time("opening", ScyllaStore::open(options)).await;
    opened.map(drop).expect_err("it opens")
}

fn says(error: &StoreError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains(WRONG), "{text}");
}

#[tokio::test]
async fn tls_is_spoken_with_those_whose_authority_is_known() {
    let Some(keyspace) = keyspace().await else {
        return;
    };
    let ca = keyspace.cluster().ca.as_deref();
    let store = open(with_tls(&keyspace, ca)).await;
    let rev = Tid::new(1, 0);
    store.apply(one(DID, "a", rev, Some(b"a"))).await.unwrap();
    assert!(store.record(DID, POST, "a").await.unwrap().is_some());
    store.close().await.unwrap();

    let unknown = refused(with_tls(&keyspace, None)).await;
    assert_eq!(unknown.kind(), "denied", "{unknown}");
    says(&unknown, &["certificate", "UnknownIssuer", "net.ca_file"]);

    let plain_port = ScyllaOptions {
        nodes: keyspace.cluster().nodes.clone(),
        ..with_tls(&keyspace, ca)
    };
    let plain_port = refused(plain_port).await;
    says(
        &plain_port,
        &["TLS", "store.scylla.tls", "store.scylla.nodes"],
    );

    let plain_words = ScyllaOptions {
        tls: None,
        ..with_tls(&keyspace, ca)
    };
    says(
        &refused(plain_words).await,
        &["store.scylla.tls", "store.scylla.nodes"],
    );
}

#[tokio::test]
async fn who_is_not_let_in_is_told_what_to_set() {
    let Some(keyspace) = keyspace().await else {
        return;
    };
    let as_user = |user: Option<(&str, &str)>| ScyllaOptions {
        user: user.map(|(name, password)| (name.to_owned(), Secret::new(password))),
        ..keyspace.options()
    };
    for user in [
        Some(("cassandra", WRONG)),
        Some(("nobody", WRONG)),
        Some(("cassandra", "")),
        None,
    ] {
        let error = refused(as_user(user)).await;
        assert_eq!(error.kind(), "denied", "{user:?}: {error}");
        let keys = ["store.scylla.user", "SCYLLA_USER", "SCYLLA_PASSWORD_FILE"];
        says(&error, &keys);
    }
}

/// `penstock schema` with a file that holds this as the password.
async fn schema(keyspace: &Keyspace, password: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("password");
    std::fs::write(&file, password).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command
        .arg("schema")
        .current_dir(dir.path())
        .env_clear()
        .envs(keyspace.variables())
        .env("DATA_DIR", dir.path().join("data"))
        .env("SCYLLA_PASSWORD_FILE", &file)
        .stdin(Stdio::null());
    in_time("penstock schema", command.output()).await.unwrap()
}

#[tokio::test]
async fn the_password_is_a_line_of_its_file() {
    let Some(keyspace) = keyspace().await else {
        return;
    };
    let password = keyspace.cluster().password().unwrap();
    for end in ["", "\n", "\r\n"] {
        let output = schema(&keyspace, &format!("{password}{end}")).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{end:?}: {words}");
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(script.starts_with("-- For Cassandra"), "{end:?}: {script}");
    }
    // Blanks may be part of a password, so they are not taken away.
    for other in [
        WRONG.to_owned(),
        format!("{password} \n"),
        format!("\n{password}"),
    ] {
        let output = schema(&keyspace, &other).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{other:?}: {words}");
        assert!(words.contains("SCYLLA_PASSWORD_FILE"), "{words}");
        assert!(!words.contains(WRONG), "{words}");
    }
}

#[tokio::test]
async fn writes_wait_while_the_user_is_refused() {
    let Some(keyspace) = keyspace().await else {
        return;
    };
    let user = format!("u_{}", keyspace.cluster().fresh_keyspace_name());
    let role = format!("{user} WITH PASSWORD = 'first' AND LOGIN = true AND SUPERUSER = true");
    keyspace.run(&format!("CREATE ROLE {role}")).await;
    let shaken = Shaken::opened_by(keyspace, |options| ScyllaOptions {
        user: Some((user.clone(), Secret::new("first"))),
        ..options
    })
    .await;
    let write = |rkey: &str| {
        let store = shaken.store.clone();
        let batch = one(DID, rkey, Tid::new(1, 0), Some(rkey.as_bytes()));
        tokio::spawn(async move { store.apply(batch).await })
    };
    let changed = format!("ALTER ROLE {user} WITH PASSWORD = 'second'");
    let back = format!("ALTER ROLE {user} WITH PASSWORD = 'first'");
    let dropped = format!("DROP ROLE {user}");
    let made = format!("CREATE ROLE {role}");
    for (gone, back) in [(changed, back), (dropped, made)] {
        shaken.keyspace.run(&gone).await;
        // The server knows for two seconds more whom it has let in.
        let (waiting, trouble) = loop {
            shaken.between.cut();
            let writing = write("a");
            match shaken.trouble_of(&writing, "password").await {
                Some(trouble) => break (writing, trouble),
                None => in_time("a write", writing).await.unwrap().unwrap(),
            };
        };
        assert!(!trouble.contains("'first'"), "{trouble}");
        assert!(trouble.contains(&user), "{trouble}");
        assert!(!waiting.is_finished());
        shaken.keyspace.run(&back).await;
        in_time("a write that waited", waiting)
            .await
            .unwrap()
            .unwrap();
        assert!(shaken.is_well().await);
    }
    shaken.keyspace.run(&format!("DROP ROLE {user}")).await;
}
