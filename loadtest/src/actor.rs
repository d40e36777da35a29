//! Accounts as they are at the start of a history.

use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use crate::mst::{Mst, TreeError};
use crate::records;
use crate::repo::{Curve, Key, Repo};
use crate::tid::Tid;
use crate::world::WorldSpec;

const TEMPLATES: usize = 4;

/// An account as its host has it.
pub(crate) struct Actor {
    pub repo: Repo,
    /// The handle that was last said.
    pub handle: String,
    /// Whether its first event was sent.
    pub born: bool,
    /// As its host last said it.
    pub active: bool,
    /// Paths that can be updated or deleted; not all of those from before the history.
    pub paths: Vec<Arc<str>>,
    /// A path to create again with the next commit.
    pub recreate: Option<Arc<str>>,
}

/// A tree that several accounts begin with.
pub(crate) struct Template {
    tree: Mst,
    paths: Vec<Arc<str>>,
}

impl Actor {
    /// Account number `at`: new, or with one of the templates' records.
    pub(crate) fn new(
        rng: &mut ChaCha8Rng,
        spec: &WorldSpec,
        at: usize,
        templates: &[Template],
        start: u64,
    ) -> Self {
        let did = match rng.random_range(0..50) {
            0 => format!("did:web:{}.example.com", records::letters(rng, 8)),
            _ => format!("did:plc:{}", records::letters(rng, 24)),
        };
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let curve = match rng.random_bool(spec.p256) {
            true => Curve::P256,
            false => Curve::K256,
        };
        let fresh = rng.random_bool(spec.fresh);
        let template = &templates[rng.random_range(0..templates.len())];
        let mut repo = Repo {
            did,
            key: Key::new(curve, secret),
            tree: Mst::default(),
            head: None,
        };
        let mut paths = Vec::new();
        if !fresh {
            repo.tree = template.tree.clone();
            paths = template.paths.clone();
            let rev = Tid::new(start - rng.random_range(1..3_600_000_000), rng.next_u64());
            repo.head = Some((rev, repo.tree.root()));
        }
        Self {
            repo,
            handle: format!("user{at}.bsky.social"),
            born: false,
            active: true,
            paths,
            recreate: None,
        }
    }
}

/// Trees that older accounts begin with, of different sizes around `prefill` records.
pub(crate) fn templates(
    rng: &mut ChaCha8Rng,
    prefill: usize,
    start: u64,
) -> Result<Vec<Template>, TreeError> {
    (0..TEMPLATES)
        .map(|at| {
            let count = prefill * (at + 1) * 2 / (TEMPLATES + 1);
            let mut tree = Mst::default();
            let mut paths = Vec::new();
            for _ in 0..count {
                let micros = start - rng.random_range(3_600_000_000..20_000_000_000_000);
                let draft = records::draft(rng, micros);
                tree.insert(draft.path.clone(), records::some_cid(rng))?;
                if paths.len() < 40 && paths.iter().all(|path| *path != draft.path) {
                    paths.push(draft.path);
                }
            }
            Ok(Template { tree, paths })
        })
        .collect()
}
