//! Pages of records and repositories in the order of their texts.
//!
//! A page of records goes DID by DID, collection by collection, and merges the two ranges of record keys of each. It
//! ends early once its values fill [`PAGE_BYTES`].

use std::cmp::Ordering;
use std::ops::Bound;

use fjall::{Iter, Readable};

use super::keys::{PACKED, RKEY, TEXT, behind, split_collection};
use super::reader::{Dids, Newest, View};
use super::rows::{did_key, split_record};
use crate::store::limits::page_limit;
use crate::store::{Page, Record, RecordsQuery, Repo, StoreError};

/// Bytes of values after which a page ends.
const PAGE_BYTES: usize = 16 << 20;

/// (did, collection, rkey) of an asked position.
type Position<'a> = (&'a str, &'a str, &'a str);

/// A page that is being filled.
struct Filling {
    items: Vec<Record>,
    limit: usize,
    bytes: usize,
    more: bool,
}

impl Filling {
    /// Takes a record, or learns from it that there is more than the page can hold.
    fn push(&mut self, record: Record) {
        if self.items.len() >= self.limit || self.bytes >= PAGE_BYTES {
            self.more = true;
            return;
        }
        self.bytes += record.record.len() + record.json.as_ref().map_or(0, Vec::len);
        self.items.push(record);
    }

    fn page(self) -> Page<Record> {
        let last = self.items.last().filter(|_| self.more);
        let cursor = last.map(|last| format!("{}/{}/{}", last.did, last.collection, last.rkey));
        Page {
            items: self.items,
            cursor,
        }
    }
}

impl View<'_> {
    /// A page of records.
    pub(super) fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        query.check()?;
        let position = query.position()?;
        let mut filling = Filling {
            items: Vec::new(),
            limit: page_limit(query.limit),
            bytes: 0,
            more: false,
        };
        if let Some(did) = &query.did {
            self.records_of(did, query, position, &mut filling)?;
            return Ok(filling.page());
        }
        let from = position.map_or("", |(did, ..)| did);
        let mut dids = Dids::from(self, &self.engine.records, from, true)?;
        while !filling.more
            && let Some(did) = dids.next(self)?
        {
            self.records_of(&did, query, position, &mut filling)?;
        }
        Ok(filling.page())
    }

    fn records_of(
        &self,
        did: &str,
        query: &RecordsQuery,
        position: Option<Position<'_>>,
        filling: &mut Filling,
    ) -> Result<(), StoreError> {
        let collections = match &query.collection {
            Some(nsid) => {
                let code = self.engine.collection(nsid);
                code.map(|code| (nsid.clone(), code.to_vec()))
                    .into_iter()
                    .collect()
            }
            None => self.collections_of(did)?,
        };
        for (nsid, code) in collections {
            let after = match position {
                None => None,
                Some((of, collection, rkey)) => match (did, nsid.as_str()).cmp(&(of, collection)) {
                    Ordering::Equal => Some(rkey),
                    Ordering::Less if query.descending => None,
                    Ordering::Greater if !query.descending => None,
                    Ordering::Less | Ordering::Greater => continue,
                },
            };
            self.records_in(did, (&nsid, &code), query, after, filling)?;
            if filling.more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The collections of a repository in the order of their names.
    fn collections_of(&self, did: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let prefix = did_key(did);
        let end = behind(&prefix);
        let mut found = Vec::new();
        let mut from = prefix.clone();
        let records = &self.engine.records;
        while let Some((key, _)) = self.first(records, Bound::Included(from), end.clone())? {
            let rest = key.get(prefix.len()..).and_then(split_collection);
            let (code, _) = rest.ok_or_else(|| self.engine.corrupt("records"))?;
            found.push((self.engine.collection_name(code)?, code.to_vec()));
            let Some(next) = behind(&[&prefix, code].concat()) else {
                break;
            };
            from = next;
        }
        found.sort();
        Ok(found)
    }

    fn records_in(
        &self,
        did: &str,
        (nsid, code): (&str, &[u8]),
        query: &RecordsQuery,
        after: Option<&str>,
        filling: &mut Filling,
    ) -> Result<(), StoreError> {
        let prefix = [did_key(did).as_slice(), code].concat();
        let cover = self.cover(did, code)?;
        let mut texts = Groups::new(self, &prefix, TEXT, after, query.descending)?;
        let mut tids = Groups::new(self, &prefix, PACKED, after, query.descending)?;
        loop {
            let order = match (&texts.head, &tids.head) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((text, _)), Some((tid, _))) if query.descending => tid.cmp(text),
                (Some((text, _)), Some((tid, _))) => text.cmp(tid),
            };
            let groups = if order.is_lt() { &mut texts } else { &mut tids };
            let Some((rkey, newest)) = groups.take(self)? else {
                return Ok(());
            };
            if let Some(record) = self.shown(did, nsid, &rkey, &newest, cover, query.values)? {
                filling.push(record);
            }
            if filling.more {
                return Ok(());
            }
        }
    }

    /// A page of repositories.
    pub(super) fn repos(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repo>, StoreError> {
        let limit = page_limit(limit);
        let mut dids = Dids::from(self, &self.engine.repos, cursor.unwrap_or_default(), false)?;
        let mut items: Vec<Repo> = Vec::new();
        while let Some(did) = dids.next(self)? {
            if items.len() == limit {
                let cursor = items.last().map(|last| last.did.clone());
                return Ok(Page { items, cursor });
            }
            items.extend(self.repo(&did)?);
        }
        Ok(Page {
            items,
            cursor: None,
        })
    }
}

/// A row of a record: its record key and a write.
type Row = (String, Newest);

/// The records of one form of record keys, each with its newest write.
struct Groups {
    rows: Iter,
    prefix: usize,
    descending: bool,
    ahead: Option<Row>,
    head: Option<Row>,
}

impl Groups {
    fn new(
        view: &View<'_>,
        prefix: &[u8],
        form: u8,
        after: Option<&str>,
        descending: bool,
    ) -> Result<Self, StoreError> {
        let key = |tail: &[u8]| [prefix, tail].concat();
        let (mut from, mut to) = (key(&[form]), key(&[form + 1]));
        if let Some(after) = after {
            let bound = RKEY
                .lower_bound(form, after, descending)
                .map(|bound| key(&bound));
            match bound {
                Some(bound) if descending => to = bound,
                Some(bound) => from = bound,
                None if descending => {}
                None => from = to.clone(),
            }
        }
        let rows = view.snapshot.range(&view.engine.records, from..to);
        let mut groups = Self {
            rows,
            prefix: prefix.len(),
            descending,
            ahead: None,
            head: None,
        };
        groups.ahead = groups.row(view)?;
        groups.head = groups.group(view)?;
        Ok(groups)
    }

    fn take(&mut self, view: &View<'_>) -> Result<Option<Row>, StoreError> {
        let next = self.group(view)?;
        Ok(std::mem::replace(&mut self.head, next))
    }

    /// The next record. Its rows come newest first, or last if the listing descends.
    fn group(&mut self, view: &View<'_>) -> Result<Option<Row>, StoreError> {
        let Some(mut newest) = self.ahead.take() else {
            return Ok(None);
        };
        while let Some(row) = self.row(view)? {
            if row.0 != newest.0 {
                self.ahead = Some(row);
                break;
            }
            if self.descending {
                newest = row;
            }
        }
        Ok(Some(newest))
    }

    fn row(&mut self, view: &View<'_>) -> Result<Option<Row>, StoreError> {
        let row = if self.descending {
            self.rows.next_back()
        } else {
            self.rows.next()
        };
        let Some(row) = row else { return Ok(None) };
        let (key, value) = row.into_inner().map_err(|error| view.engine.error(error))?;
        let read = || {
            let (group, tail) = split_record(&key)?;
            Some((RKEY.text(group.get(self.prefix..)?)?, tail))
        };
        let (rkey, tail) = read().ok_or_else(|| view.engine.corrupt("records"))?;
        Ok(Some((rkey, view.newest_of(tail, value)?)))
    }
}
