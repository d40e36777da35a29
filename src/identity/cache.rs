//! What is known of DIDs, in few bytes, and how old it is.
//!
//! Two maps, a young and an old one. What is used moves to the young; when that is half of all that may be kept, it becomes
//! the old one, and what nobody used since the last time goes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use data_encoding::{Encoding, Specification};

use super::{Identity, IdentityError, SigningKey};

/// A DID, packed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// `did:plc`: 24 characters of 5 bits.
    Plc([u8; 15]),
    Other(Box<str>),
}

impl Key {
    /// Packs; anything that is no did:plc stays as it is.
    pub(super) fn of(did: &str) -> Self {
        let packed = did.strip_prefix("did:plc:").and_then(|id| {
            let bytes = base32()?.decode(id.as_bytes()).ok()?;
            bytes.try_into().ok()
        });
        packed.map_or_else(|| Self::Other(did.into()), Self::Plc)
    }
}

/// The alphabet of did:plc, without padding.
fn base32() -> Option<&'static Encoding> {
    static ENCODING: std::sync::OnceLock<Option<Encoding>> = std::sync::OnceLock::new();
    let make = || {
        let mut specification = Specification::new();
        specification
            .symbols
            .push_str("abcdefghijklmnopqrstuvwxyz234567");
        specification.encoding().ok()
    };
    ENCODING.get_or_init(make).as_ref()
}

/// What is known of a DID.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Known(Option<Arc<str>>, Option<SigningKey>),
    Unknown(Arc<IdentityError>),
    Tombstoned,
}

impl Answer {
    /// As the caller wants it.
    pub(super) fn result(&self, did: &str) -> Result<Identity, IdentityError> {
        match self {
            Self::Known(pds, key) => Ok(Identity {
                pds: pds.clone(),
                key: *key,
            }),
            Self::Unknown(error) => Err((**error).clone()),
            Self::Tombstoned => Err(IdentityError::Tombstoned(did.to_owned())),
        }
    }
}

/// An answer with its age. Times are whole seconds since 1970.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) answer: Answer,
    /// When this was so.
    pub(super) at: u32,
    /// When to ask again.
    pub(super) due: u32,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    half: usize,
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    hosts: Hosts,
}

impl Cache {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            half: (entries / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
            hosts: Hosts::default(),
        }
    }

    pub(super) fn get(&mut self, key: &Key) -> Option<Entry> {
        if let Some(entry) = self.young.get(key) {
            return Some(entry.clone());
        }
        let entry = self.old.remove(key)?;
        self.put(key.clone(), entry.clone());
        Some(entry)
    }

    pub(super) fn put(&mut self, key: Key, entry: Entry) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The one copy of a host's origin.
    pub(super) fn host(&mut self, origin: &str) -> Arc<str> {
        self.hosts.one(origin)
    }
}

/// Origins, each once; those that no entry names are dropped when there are twice as many as after the last look.
#[derive(Debug, Default)]
struct Hosts {
    all: HashSet<Arc<str>>,
    look_at: usize,
}

impl Hosts {
    fn one(&mut self, origin: &str) -> Arc<str> {
        if let Some(known) = self.all.get(origin) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.look_at {
            self.all.retain(|host| Arc::strong_count(host) > 1);
            self.look_at = (self.all.len() * 2).max(1024);
        }
        let new: Arc<str> = origin.into();
        self.all.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u32) -> Entry {
        Entry {
            answer: Answer::Tombstoned,
            at,
            due: at,
        }
    }

    #[test]
    fn plc_dids_are_packed_and_others_kept() {
        let Key::Plc(bytes) = Key::of("did:plc:ewvi7nxzyoun6zhxrhs64oiz") else {
            panic!("not packed")
        };
        let text = base32().unwrap().encode(&bytes);
        assert_eq!(text, "ewvi7nxzyoun6zhxrhs64oiz");
        for did in [
            "did:web:a.example",
            "did:plc:",
            "did:plc:EWVI7NXZYOUN6ZHXRHS64OIZ",
            "did:plc:ewvi7nxzyoun6zhxrhs64oi",
            "did:plc:ewvi7nxzyoun6zhxrhs64oizz",
            "did:plc:ewvi7nxzyoun6zhxrhs64oi1",
        ] {
            assert_eq!(Key::of(did), Key::Other(did.into()), "{did}");
        }
        assert!(size_of::<Key>() + size_of::<Entry>() <= 96);
    }

    #[test]
    fn is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new(100);
        let used = Key::of("did:web:used.example");
        cache.put(used.clone(), entry(7));
        for n in 0..10_000 {
            cache.put(Key::of(&format!("did:web:{n}.example")), entry(n));
            assert!(cache.len() <= 100);
            assert_eq!(cache.get(&used).unwrap().at, 7);
        }
        cache.forget(&used);
        assert!(cache.get(&used).is_none());
    }

    #[test]
    fn origins_are_kept_once_and_dropped_unused() {
        let mut hosts = Hosts::default();
        let kept = hosts.one("https://kept.example");
        for n in 0..100_000 {
            hosts.one(&format!("https://{n}.example"));
        }
        assert!(Arc::ptr_eq(&kept, &hosts.one("https://kept.example")));
        assert!(hosts.all.len() <= 1025, "{}", hosts.all.len());
    }
}
