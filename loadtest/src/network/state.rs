//! Accounts and hosts as they are now, shared by all servers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Options;
use super::content::{self, Built, Edit, Recipe, mix};
use super::fault::{Fault, Outcome, draw};
use super::gate::Gate;
use crate::dagcbor::Cid;
use crate::datetime;
use crate::records::letters;
use crate::repo::Key;
use crate::tid::Tid;

/// Repositories that are kept as they were made, for paging and for those that are asked for again at once.
const KEPT: usize = 16;
const YEAR: u64 = 365 * 86_400_000_000;

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What changes of an account.
pub(super) struct Account {
    pub did: String,
    pub host: usize,
    pub fault: Option<Fault>,
    /// Where it was before it moved, and when.
    pub moved: Vec<Move>,
    pub edits: Vec<Edit>,
    /// Requests that a [`Fault::Recovering`] has refused.
    pub refused: u32,
    /// `rev` and commit; none: not made yet since the last edit.
    head: Option<(Tid, Cid)>,
    /// Its collections, as bits of [`Shared::names`]; none: not known since the last edit.
    collections: Option<u64>,
}

/// From where, and when in microseconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub from: usize,
    pub at: u64,
}

pub(super) struct Host {
    pub url: String,
    pub name: String,
    pub fault: Mutex<Option<Fault>>,
    /// Requests that a [`Fault::Recovering`] has refused.
    pub refused: AtomicU32,
    pub gate: Gate,
    /// The accounts that are here.
    pub residents: Mutex<BTreeSet<usize>>,
}

/// How an account stands at a host.
pub(super) enum Standing {
    Active,
    /// `status`, and the XRPC error.
    Inactive(&'static str, &'static str),
    NotThere,
}

pub(super) struct Shared {
    pub options: Options,
    /// When the histories end, in microseconds since the epoch.
    pub now: u64,
    pub accounts: Vec<Mutex<Account>>,
    pub by_did: HashMap<String, usize>,
    pub hosts: Vec<Arc<Host>>,
    pub plc: Arc<Host>,
    pub relay: Arc<Host>,
    /// Operations in the PLC directory's log since the start: when, and whose.
    pub operations: Mutex<Vec<(u64, usize)>>,
    names: Mutex<Vec<String>>,
    kept: Mutex<VecDeque<(usize, Arc<Built>)>>,
    last_rev: Mutex<u64>,
}

impl Shared {
    pub(super) fn new(
        options: Options,
        hosts: Vec<Arc<Host>>,
        plc: Arc<Host>,
        relay: Arc<Host>,
    ) -> Self {
        let now = options.now.unwrap_or_else(datetime::now_micros);
        let mut accounts = Vec::with_capacity(options.repos);
        let mut by_did = HashMap::with_capacity(options.repos);
        for at in 0..options.repos {
            let account = Account::new(&options, &hosts, at);
            locked(&hosts[account.host].residents).insert(at);
            by_did.insert(account.did.clone(), at);
            accounts.push(Mutex::new(account));
        }
        Self {
            now,
            accounts,
            by_did,
            hosts,
            plc,
            relay,
            operations: Mutex::default(),
            names: Mutex::default(),
            kept: Mutex::default(),
            last_rev: Mutex::new(now),
            options,
        }
    }

    pub(super) fn account(&self, at: usize) -> MutexGuard<'_, Account> {
        locked(&self.accounts[at])
    }

    pub(super) fn find(&self, did: &str) -> Option<usize> {
        self.by_did.get(did).copied()
    }

    /// What is wrong with an account now: its host's fault, or its own.
    pub(super) fn fault(&self, at: usize) -> Option<Fault> {
        let account = self.account(at);
        let host = locked(&self.hosts[account.host].fault)
            .filter(|fault| !(fault.needs_plc() && account.did.starts_with("did:web:")));
        host.or(account.fault)
    }

    pub(super) fn seed(&self, at: usize) -> u64 {
        mix(self.options.seed, at)
    }

    /// The `nth` key of an account.
    pub(super) fn key(&self, at: usize, nth: usize) -> Key {
        content::key(self.seed(at), self.options.p256, nth)
    }

    fn recipe(&self, at: usize) -> Recipe {
        let seed = self.seed(at);
        let mean = self.options.records;
        let records = match at < self.options.large {
            true => self.options.large_records,
            false => (mix(seed, 1) % (2 * mean as u64 + 1)) as usize,
        };
        let account = self.account(at);
        Recipe {
            did: account.did.clone(),
            seed,
            records,
            now: self.now,
            p256: self.options.p256,
            edits: account.edits.clone(),
        }
    }

    /// The repository as it is now.
    pub(super) fn built(&self, at: usize) -> Arc<Built> {
        let last = self.account(at).edits.last().map(|edit| edit.rev);
        let fits =
            |kept: &&(usize, Arc<Built>)| kept.0 == at && last.is_none_or(|rev| rev == kept.1.rev);
        if let Some((_, built)) = locked(&self.kept).iter().find(fits) {
            return built.clone();
        }
        let built = Arc::new(self.recipe(at).build());
        let mut account = self.account(at);
        if account.edits.last().map(|edit| edit.rev) == last {
            account.head = Some((built.rev, built.commit));
            account.collections = Some(self.bits(&built.collections()));
        }
        drop(account);
        let mut kept = locked(&self.kept);
        kept.retain(|(other, _)| *other != at);
        kept.push_front((at, built.clone()));
        kept.truncate(KEPT);
        built
    }

    fn bits(&self, collections: &[&str]) -> u64 {
        let mut names = locked(&self.names);
        let mut bits = 0;
        for collection in collections {
            let known = names.iter().position(|name| name == collection);
            bits |= 1 << known.unwrap_or(names.len()).min(63);
            if known.is_none() {
                names.push((*collection).to_owned());
            }
        }
        bits
    }

    /// `rev` and commit of the repository.
    pub(super) fn head(&self, at: usize) -> (Tid, Cid) {
        let known = self.account(at).head;
        known.unwrap_or_else(|| {
            let built = self.built(at);
            (built.rev, built.commit)
        })
    }

    /// Whether the repository has records of the collection.
    pub(super) fn has(&self, at: usize, collection: &str) -> bool {
        let known = self.account(at).collections;
        let bits = known.unwrap_or_else(|| self.bits(&self.built(at).collections()));
        let names = locked(&self.names);
        let place = names.iter().position(|name| name == collection);
        place.is_some_and(|place| bits >> place.min(63) & 1 == 1)
    }

    /// What a list and `getLatestCommit` say of the revision.
    pub(super) fn told_rev(&self, at: usize) -> Tid {
        let rev = self.head(at).0;
        match self.fault(at) {
            Some(Fault::Imported) if self.account(at).edits.is_empty() => {
                Tid::new(self.now, self.seed(at))
            }
            _ => rev,
        }
    }

    /// What a list says, true or not.
    pub(super) fn listed_rev(&self, at: usize) -> Tid {
        let rev = self.told_rev(at);
        match self.fault(at) {
            Some(Fault::LyingList) => Tid::new(rev.micros() - YEAR, 0),
            _ => rev,
        }
    }

    /// How an account stands, wherever it is.
    pub(super) fn standing(&self, at: usize) -> Standing {
        match self.fault(at).map(|fault| (fault, fault.outcome())) {
            Some((Fault::Deactivated, _)) => Standing::Inactive("deactivated", "RepoDeactivated"),
            Some((Fault::TakenDown, _)) => Standing::Inactive("takendown", "RepoTakendown"),
            Some((Fault::Suspended, _)) => Standing::Inactive("suspended", "RepoSuspended"),
            Some((_, Outcome::Inactive(_))) => Standing::NotThere,
            _ => Standing::Active,
        }
    }

    /// How it stands at one host, which may be one that it left.
    pub(super) fn standing_at(&self, at: usize, host: usize) -> Standing {
        let account = self.account(at);
        if account.host == host {
            drop(account);
            return self.standing(at);
        }
        let left = account.moved.iter().any(|moved| moved.from == host);
        match left && at.is_multiple_of(2) {
            true => Standing::Inactive("deactivated", "RepoDeactivated"),
            false => Standing::NotThere,
        }
    }

    /// Moves an account that was to move once it is asked for.
    pub(super) fn move_if_due(&self, at: usize, host: usize) {
        let due = {
            let account = self.account(at);
            account.host == host && account.fault == Some(Fault::Moves)
        };
        if due {
            let healthy = (1..self.hosts.len())
                .map(|step| (host + step) % self.hosts.len())
                .find(|other| locked(&self.hosts[*other].fault).is_none());
            self.move_to(at, healthy.unwrap_or(host));
        }
    }

    pub(super) fn move_to(&self, at: usize, to: usize) {
        let mut account = self.account(at);
        if account.fault == Some(Fault::Moves) {
            account.fault = None;
        }
        let from = account.host;
        if from == to {
            return;
        }
        let mut operations = locked(&self.operations);
        let last = operations.last().map_or(0, |(at, _)| *at);
        let when = datetime::now_micros().max(last + 1_000);
        operations.push((when, at));
        account.moved.push(Move { from, at: when });
        account.host = to;
        locked(&self.hosts[from].residents).remove(&at);
        locked(&self.hosts[to].residents).insert(at);
    }

    /// A revision that is newer than all before, and not ahead of the clock but for the edits of the same microsecond.
    pub(super) fn next_rev(&self) -> Tid {
        let mut last = locked(&self.last_rev);
        *last = datetime::now_micros().max(*last + 1);
        Tid::new(*last, 0)
    }

    /// Adds a commit of one record.
    pub(super) fn edit(&self, at: usize, path: Arc<str>, content: Option<u64>) -> Tid {
        let mut account = self.account(at);
        let rev = self.next_rev();
        account.edits.push(Edit { rev, path, content });
        (account.head, account.collections) = (None, None);
        rev
    }
}

impl Account {
    fn new(options: &Options, hosts: &[Arc<Host>], at: usize) -> Self {
        let seed = mix(options.seed, at);
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, 2));
        let host = at % hosts.len();
        let web = at < hosts.len() && (mix(seed, 3) as f64 / u64::MAX as f64) < options.did_web;
        let did = match web {
            true => format!("did:web:{}", hosts[host].name.replace(':', "%3A")),
            false => format!("did:plc:{}", letters(&mut rng, 24)),
        };
        let fault = draw(&options.faults, seed, 4).filter(|fault| !(web && fault.needs_plc()));
        Self {
            did,
            host,
            fault,
            moved: Vec::new(),
            edits: Vec::new(),
            refused: 0,
            head: None,
            collections: None,
        }
    }
}

impl Host {
    /// Whether the host itself still recovers; counts the request.
    pub(super) fn refuses(&self) -> bool {
        self.refused.fetch_add(1, Ordering::SeqCst) < 10
    }
}
