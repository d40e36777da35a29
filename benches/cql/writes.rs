//! Commits as the live network sends them: 70% likes, 12% posts, 10% reposts, 6% follows; 96% create, 2.7% delete.

use penstock::decode::{Cid, Tid};
use penstock::store::{RecordBody, RecordWrite, RevWrite, WriteBatch};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 350;
/// Repositories; a batch rarely has two commits of one.
const REPOSITORIES: usize = 100_000;
/// Commits a second that the `rev`s tell of.
const STEP: u64 = 2_500;
/// The time of the first commit.
const BEGIN: u64 = 1_790_000_000_000_000;

/// Makes commits, never the same twice.
pub struct Source {
    random: fastrand::Rng,
    dids: Vec<String>,
    next: u64,
}

/// What a record of the network is about.
pub fn collection(of: u64) -> &'static str {
    match of % 100 {
        0..70 => "app.bsky.feed.like",
        70..82 => "app.bsky.feed.post",
        82..92 => "app.bsky.feed.repost",
        92..98 => "app.bsky.graph.follow",
        _ => "app.bsky.feed.threadgate",
    }
}

/// A DID of this number generator's.
pub fn did(random: &mut fastrand::Rng) -> String {
    let letters = b"234567abcdefghijklmnopqrstuvwxyz";
    let id = (0..24).map(|_| char::from(letters[random.usize(..32)]));
    format!("did:plc:{}", id.collect::<String>())
}

/// A record of [`RECORD_BYTES`]: half of it is hashes and identifiers, as in the likes and reposts of the network.
pub fn record(random: &mut fastrand::Rng, block: &mut Vec<u8>) -> Cid {
    block.clear();
    block.extend_from_slice(b"\xa4e$typergapp.bsky.feed.like gsubject\xa2ccidx;bafyreisuri");
    block.extend_from_slice(
        b"app.bsky.feed.post at://did:plc: createdAtx\x182026-11-23T00:00:00.000Z",
    );
    let text = RECORD_BYTES / 2 - block.len();
    block.extend(
        b"the quick brown fox jumps over the lazy dog and on "
            .iter()
            .cycle()
            .take(text),
    );
    let letters = b"234567abcdefghijklmnopqrstuvwxyz";
    while block.len() < RECORD_BYTES {
        block.push(letters[random.usize(..32)]);
    }
    let mut hash = [0; 32];
    random.fill(&mut hash);
    Cid::new(0x71, hash)
}

impl Source {
    pub fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let dids = (0..REPOSITORIES).map(|_| did(&mut random)).collect();
        Self {
            random,
            dids,
            next: 0,
        }
    }

    /// How many there were.
    pub fn commits(&self) -> u64 {
        self.next
    }

    /// A batch of so many commits: a record and a revision each.
    pub fn batch(&mut self, commits: u64) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let mut block = Vec::new();
        for _ in 0..commits {
            self.commit(&mut batch, &mut block);
        }
        batch
    }

    fn commit(&mut self, batch: &mut WriteBatch, block: &mut Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let place = self.random.usize(..self.dids.len());
        let rev = Tid::new(BEGIN + number * STEP, 3);
        let old = number.saturating_sub(self.random.u64(..100_000));
        let (of, deletes) = match self.random.u16(..1000) {
            0..27 => (old, true),
            27..40 => (old, false),
            _ => (number, false),
        };
        let rkey = Tid::new(BEGIN + of * STEP, 1).to_string();
        let cid = record(&mut self.random, block);
        let did = &self.dids[place];
        batch.put_record(RecordWrite {
            did,
            collection: collection(of),
            rkey: &rkey,
            version: rev.micros(),
            rev,
            body: (!deletes).then_some(RecordBody {
                cid,
                record: block,
                json: None,
            }),
        });
        batch.put_rev(RevWrite {
            did,
            rev,
            data: cid,
            commit: cid,
        });
    }
}
