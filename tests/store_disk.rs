//! The embedded store on a disk that fills up and is enlarged: nothing is acknowledged that is not there afterwards.
//!
//! Needs the right to mount a small disk in memory; says that it skips where it may not.

use std::process::Command;

use penstock::decode::{Cid, Tid};
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::{RecordBody, RecordWrite, Store, StoreError, WriteBatch};

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
const POST: &str = "app.bsky.feed.post";

fn put(batch: &mut WriteBatch, rkey: &str, record: &[u8]) {
    let rev = Tid::new(1, 0);
    batch.put_record(RecordWrite {
        did: DID,
        collection: POST,
        rkey,
        version: rev.micros(),
        rev,
        body: Some(RecordBody {
            cid: Cid::of_dag_cbor(record),
            record,
            json: None,
        }),
    });
}

fn one(rkey: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    put(&mut batch, rkey, b"one");
    batch
}

/// A small disk of its own; `None` where it can't be mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Self(dir);
        disk.call(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "small"],
        )
        .then_some(disk)
    }

    fn call(&self, program: &str, args: &[&str]) -> bool {
        let status = Command::new(program).args(args).arg(self.0.path()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.call("umount", &[]);
    }
}

async fn fills_the_disk(min_free: u64) {
    let Some(disk) = SmallDisk::mount(100) else {
        println!("skipped: no small disk can be mounted here");
        return;
    };
    let small = EmbeddedOptions {
        min_free,
        write_buffer_bytes: 8 << 20,
        ..EmbeddedOptions::new(disk.0.path())
    };
    let store = EmbeddedStore::open(small.clone()).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut acknowledged = 0;
    let record: Vec<u8> = (0..20_000).map(|_| random.u8(..)).collect();
    let error = loop {
        let mut batch = WriteBatch::new();
        for at in 0..20 {
            let rkey = format!("r{}", acknowledged + at);
            put(&mut batch, &rkey, &record);
        }
        match store.apply(batch).await {
            Ok(_) => acknowledged += 20,
            Err(error) => break error,
        }
        assert!(acknowledged < 20_000, "the disk never filled up");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert!(acknowledged >= 200, "{acknowledged}");
    let later = store.apply(one("later")).await;
    assert!(matches!(later, Err(StoreError::DiskFull { .. })));
    assert!(
        store.record(DID, POST, "r0").await.unwrap().is_some(),
        "reads go on"
    );
    assert!(store.health().await.unwrap().trouble.is_some());
    store.close().await.unwrap();

    assert!(disk.call("mount", &["-o", "remount,size=400m"]));
    let store = EmbeddedStore::open(small).unwrap();
    for at in 0..acknowledged {
        let held = store.record(DID, POST, &format!("r{at}")).await.unwrap();
        assert_eq!(
            held.map(|held| held.record).as_ref(),
            Some(&record),
            "r{at}"
        );
    }
    store.apply(one("later")).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_disk_without_the_room_to_keep_free_stops_writes() {
    fills_the_disk(20 << 20).await;
}

#[tokio::test]
async fn a_full_disk_loses_nothing_acknowledged() {
    fills_the_disk(0).await;
}
