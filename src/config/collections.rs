//! Which collections are stored.

use std::fmt;

/// A set of collections: NSIDs, and prefixes that end in `.*`. Empty means all.
///
/// Kept sorted, without duplicates and without what a prefix already covers, so that two spellings of one set
/// are equal and print the same. Facts of the ledger carry that spelling.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectionFilter {
    /// Sorted; none starts with a prefix.
    names: Vec<Box<str>>,
    /// Each with its last dot and without the star: `app.bsky.`; sorted; none starts with another.
    prefixes: Vec<Box<str>>,
}

/// Longest NSID that the protocol allows, in bytes.
const MAX_NSID: usize = 317;
/// Most entries of one filter.
const MAX_ENTRIES: usize = 1024;

impl CollectionFilter {
    /// All collections.
    pub const ALL: Self = Self {
        names: Vec::new(),
        prefixes: Vec::new(),
    };

    /// A filter from NSIDs and prefixes such as `app.bsky.*`; the error is the entry that is neither.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let filter = Self::read(entries)?;
        match filter.is_full() {
            true => Err(format!("more than {MAX_ENTRIES} entries")),
            false => Ok(filter),
        }
    }

    fn read<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut names = Vec::new();
        let mut prefixes = Vec::new();
        for entry in entries {
            match entry.strip_suffix('*') {
                Some(prefix) if is_prefix(prefix) => prefixes.push(prefix),
                None if is_nsid(entry) => names.push(entry),
                _ => return Err(entry.to_owned()),
            }
        }
        Ok(Self::canonical(names, prefixes))
    }

    /// Whether it has more entries than one filter should: each fact of the ledger carries them all.
    pub fn is_full(&self) -> bool {
        self.names.len() + self.prefixes.len() > MAX_ENTRIES
    }

    /// What is wanted here, and this collection too; `None`: it is no NSID.
    pub fn with(&self, nsid: &str) -> Option<Self> {
        if self.wants(nsid) {
            return Some(self.clone());
        }
        let at = self.names.partition_point(|name| **name < *nsid);
        let mut grown = self.clone();
        grown.names.insert(at, nsid.into());
        is_nsid(nsid).then_some(grown)
    }

    /// Reads the canonical spelling, as facts carry it; the error is the entry that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::ALL),
            text => Self::read(text.split(',')),
        }
    }

    /// Whether all that `other` wants is wanted here too.
    pub fn covers(&self, other: &Self) -> bool {
        if self.is_all() || other.is_all() {
            return self.is_all();
        }
        let prefixed = |prefix: &str| self.prefixes.iter().any(|own| prefix.starts_with(&**own));
        other.names.iter().all(|name| self.wants(name))
            && other.prefixes.iter().all(|prefix| prefixed(prefix))
    }

    /// What both want; `None`: nothing, which no filter says.
    pub fn shared(&self, other: &Self) -> Option<Self> {
        if self.is_all() || other.is_all() {
            let narrower = if self.is_all() { other } else { self };
            return Some(narrower.clone());
        }
        let both = |one: &Self, two: &Self| {
            let mut entries = one.entries();
            entries.retain(|entry| Self::parse(entry).is_ok_and(|entry| two.covers(&entry)));
            entries
        };
        let entries = [both(self, other), both(other, self)].concat();
        Self::of_entries(&entries)
    }

    /// A filter of these entries, each of which was one of a filter; `None`: there is none.
    pub fn of_entries(entries: &[String]) -> Option<Self> {
        let filter = Self::read(entries.iter().map(String::as_str)).ok()?;
        (!filter.is_all()).then_some(filter)
    }

    fn canonical(mut names: Vec<&str>, mut prefixes: Vec<&str>) -> Self {
        prefixes.sort_unstable();
        // Sorted, a prefix stands before all that it covers.
        prefixes.dedup_by(|later, earlier| later.starts_with(*earlier));
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix)));
        Self {
            names: names.into_iter().map(Into::into).collect(),
            prefixes: prefixes.into_iter().map(Into::into).collect(),
        }
    }

    /// The collections by name, where none is wanted by a prefix or as one of all.
    pub fn names(&self) -> Option<Vec<String>> {
        let only_names = !self.is_all() && self.prefixes.is_empty();
        only_names.then(|| self.names.iter().map(|name| name.to_string()).collect())
    }

    /// Its NSIDs and prefixes, sorted; none where all is wanted.
    pub fn entries(&self) -> Vec<String> {
        let names = self.names.iter().map(|name| name.to_string());
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        let mut entries: Vec<String> = names.chain(prefixes).collect();
        entries.sort_unstable();
        entries
    }

    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty()
    }

    /// Whether records of this collection are stored. Allocates nothing; logarithmic in the number of names.
    pub fn wants(&self, collection: &str) -> bool {
        self.is_all()
            || self
                .names
                .binary_search_by(|name| (**name).cmp(collection))
                .is_ok()
            || self
                .prefixes
                .iter()
                .any(|prefix| collection.starts_with(&**prefix))
    }
}

/// The canonical spelling: sorted, comma separated; empty for all.
impl fmt::Display for CollectionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.entries().join(","))
    }
}

fn is_nsid(text: &str) -> bool {
    text.len() <= MAX_NSID && atrium_api::types::string::Nsid::new(text.to_owned()).is_ok()
}

/// Whether `text` is one or more whole segments of an NSID with the dot behind them.
fn is_prefix(text: &str) -> bool {
    let Some(segments) = text.strip_suffix('.') else {
        return false;
    };
    text.len() < MAX_NSID
        && segments
            .split('.')
            .enumerate()
            .all(|(at, s)| is_segment(at, s))
}

fn is_segment(at: usize, segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let first_is_letter = segment
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic());
    (1..=63).contains(&segment.len())
        && segment.bytes().all(plain)
        && !segment.starts_with('-')
        && !segment.ends_with('-')
        && (at > 0 || first_is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_names_and_prefixes_at_a_dot() {
        let filter = CollectionFilter::new([
            "com.example.thing",
            "app.bsky.feed.*",
            "app.bsky.graph.follow",
        ])
        .unwrap();
        assert!(filter.wants("com.example.thing"));
        assert!(filter.wants("app.bsky.feed.post"));
        assert!(filter.wants("app.bsky.graph.follow"));
        for other in [
            "com.example.things",
            "com.example",
            "app.bsky.feedx.post",
            "app.bsky.feed",
            "app.bsky.graph.block",
            "",
        ] {
            assert!(!filter.wants(other), "{other}");
        }
        assert!(!filter.is_all());
        assert!(CollectionFilter::ALL.wants("any.thing.at.all"));
    }

    #[test]
    fn one_set_has_one_spelling() {
        let one = CollectionFilter::new(["b.c.d", "app.bsky.feed.post", "app.bsky.*", "b.c.d"]);
        let two = CollectionFilter::new(["app.bsky.*", "app.bsky.graph.*", "b.c.d"]);
        assert_eq!(one, two);
        assert_eq!(one.unwrap().to_string(), "app.bsky.*,b.c.d");
        assert_eq!(CollectionFilter::ALL.to_string(), "");
    }

    #[test]
    fn a_filter_covers_what_wants_no_more() {
        let covers = |own: &str, other: &str| {
            let read = |text| CollectionFilter::parse(text).unwrap();
            read(own).covers(&read(other))
        };
        for (own, other) in [
            ("", ""),
            ("", "a.b.c"),
            ("", "app.bsky.*"),
            ("a.b.c", "a.b.c"),
            ("a.b.c,a.b.d", "a.b.d"),
            ("app.bsky.*", "app.bsky.feed.*,app.bsky.graph.follow"),
            ("app.bsky.*,x.y.z", "app.bsky.*,x.y.z"),
        ] {
            assert!(covers(own, other), "{own:?} {other:?}");
            assert_eq!(covers(other, own), own == other, "{other:?} {own:?}");
        }
        for (own, other) in [
            ("a.b.c", "a.b.d"),
            ("app.bsky.feed.*", "app.bsky.feedx.*"),
            ("app.bsky.feed.*,x.y.z", "x.y.z,app.bsky.graph.*"),
        ] {
            assert!(!covers(own, other), "{own:?} {other:?}");
        }
    }

    #[test]
    fn a_filter_grows_by_names() {
        let grown = |own: &str, nsid: &str| CollectionFilter::parse(own).unwrap().with(nsid);
        for (own, nsid, both) in [
            ("", "a.b.c", ""),
            ("b.c.d,x.y.*", "a.b.c", "a.b.c,b.c.d,x.y.*"),
            ("b.c.d,x.y.*", "x.y.z", "b.c.d,x.y.*"),
            ("b.c.d", "c.d.e", "b.c.d,c.d.e"),
            ("b.c.d", "b.c.d", "b.c.d"),
        ] {
            let wanted = CollectionFilter::parse(both).unwrap();
            assert_eq!(grown(own, nsid), Some(wanted), "{own:?} {nsid:?}");
        }
        assert_eq!(grown("b.c.d", "a"), None);
    }

    #[test]
    fn two_filters_share_what_both_want() {
        let shared = |one: &str, two: &str| {
            let [one, two] = [one, two].map(|text| CollectionFilter::parse(text).unwrap());
            let shared = one.shared(&two);
            assert_eq!(shared, two.shared(&one));
            shared.map(|shared| shared.to_string())
        };
        for (one, two, both) in [
            ("", "", Some("")),
            ("", "a.b.c,d.e.*", Some("a.b.c,d.e.*")),
            ("a.b.c,d.e.*", "a.b.c,d.e.f,x.y.z", Some("a.b.c,d.e.f")),
            ("d.e.*", "d.e.f.*,d.*", Some("d.e.*")),
            ("a.b.c", "x.y.z", None),
        ] {
            assert_eq!(shared(one, two).as_deref(), both, "{one:?} {two:?}");
        }
    }

    #[test]
    fn what_is_neither_is_named() {
        for wrong in [
            "",
            "*",
            ".*",
            "app",
            "app.bsky",
            "app.bsky*",
            "app.*.post",
            "app..*",
            "a b.c.d",
            "app.bsky.-x.*",
            "1app.*",
        ] {
            assert_eq!(
                CollectionFilter::new([wrong]),
                Err(wrong.to_owned()),
                "{wrong}"
            );
        }
    }
}
