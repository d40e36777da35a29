//! The CQL schema of each version. `tests/cql/upgrades.rs` opens them in a database.

use std::fs;

use penstock::config::Replication;
use penstock::store::scylla::Server;
use penstock::store::scylla::schema::{Layout, VERSION};

use crate::installed::Installation;
use crate::layout::{lost, read};
use crate::{blesses, folder};

fn servers() -> [(&'static str, Server); 2] {
    [
        ("scylla", Server::Scylla("2025.4".to_owned())),
        ("cassandra", Server::Cassandra("5.0".to_owned())),
    ]
}

fn script(server: &Server) -> String {
    let layout = Layout {
        keyspace: "penstock".to_owned(),
        replication: Replication::Everywhere(3),
        cdc: false,
        server: server.clone(),
    };
    layout.script()
}

#[test]
fn the_schema_of_today_is_kept() {
    for (name, server) in servers() {
        let file = folder().join(format!("schema-{VERSION}.{name}.cql"));
        if blesses() && !file.exists() {
            fs::write(&file, script(&server)).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; keep it: PENSTOCK_BLESS=1 cargo test --test upgrade today",
                file.display()
            )
        });
        assert!(
            read(&kept) == read(&script(&server)),
            "the tables differ from those of version {VERSION} that were kept: a change of them is a new version"
        );
    }
}

#[tokio::test]
async fn what_this_build_makes_only_adds_to_what_was_kept() {
    let printed = Installation::following("ws://127.0.0.1:1")
        .prints(&["schema"])
        .await;
    let printed = String::from_utf8(printed).unwrap();
    let mut looked_at = 0;
    for file in fs::read_dir(folder()).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let Some(name) = name.strip_prefix("schema-") else {
            continue;
        };
        let kept = read(&fs::read_to_string(file.path()).unwrap());
        assert!(kept.len() > 10, "{name}");
        for (server, of) in servers() {
            if name.ends_with(&format!(".{server}.cql")) {
                assert_eq!(
                    lost(&kept, &read(&script(&of))),
                    Vec::<String>::new(),
                    "{name}"
                );
                looked_at += 1;
            }
        }
        assert_eq!(lost(&kept, &read(&printed)), Vec::<String>::new(), "{name}");
    }
    assert!(looked_at >= 2);
}
