//! Pages of records and repositories: repositories in the order of their tokens, the records of one by collection and key.
//!
//! A listing goes on from a DID: first the rest of its own rows, then the DIDs of the same token (hardly ever any), then
//! those of greater tokens. The token is computed here, so a DID whose rows are gone by then is a good place as well.

use std::cmp::Ordering;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::reader::{
    Ask, HeadRow, Reader, RecordRow, RepoRow, Rows, read_head, read_record, read_repo,
};
use crate::store::limits::page_limit;
use crate::store::{Page, Record, RecordsQuery, Repo, StoreError};

/// Bytes of values after which a page ends.
const PAGE_BYTES: usize = 8 << 20;
/// Rows of a request with their values.
const VALUES: usize = 128;
/// Rows of a request without.
const HEADS: usize = 1000;
/// Repositories of a request.
const REPOS: usize = 500;
/// DIDs of a request.
const DIDS: usize = 1000;
/// Repositories that are asked at once for one collection, and rows that each gives at first.
const AHEAD: usize = 16;
const FIRST: usize = 16;
/// Before every token.
const FIRST_TOKEN: i64 = i64::MIN;

/// (did, collection, rkey) of an asked position.
type Position<'a> = (&'a str, &'a str, &'a str);

/// Where the records of a repository start.
#[derive(Clone, Copy)]
enum Start<'a> {
    All,
    Beyond(&'a str, &'a str),
    Nowhere,
}

fn start<'a>(did: &str, query: &RecordsQuery, position: Option<Position<'a>>) -> Start<'a> {
    let Some((of, collection, rkey)) = position else {
        return Start::All;
    };
    let order = match &query.collection {
        Some(nsid) => (did, nsid.as_str()).cmp(&(of, collection)),
        None => did.cmp(of),
    };
    match order {
        Ordering::Equal => Start::Beyond(collection, rkey),
        Ordering::Less if query.descending => Start::All,
        Ordering::Greater if !query.descending => Start::All,
        Ordering::Less | Ordering::Greater => Start::Nowhere,
    }
}

/// A page that is being filled.
struct Filling {
    items: Vec<Record>,
    limit: usize,
    bytes: usize,
    more: bool,
}

impl Filling {
    /// Takes records, or learns from one that there is more than the page can hold.
    fn extend(&mut self, records: Vec<Record>) {
        for record in records {
            if self.items.len() >= self.limit || self.bytes >= PAGE_BYTES {
                self.more = true;
                return;
            }
            self.bytes += record.record.len() + record.json.as_ref().map_or(0, Vec::len);
            self.items.push(record);
        }
    }

    /// Rows that are worth asking for: those that are missing, and one to know whether there are more.
    fn wanted(&self, values: bool) -> usize {
        let missing = self.limit.saturating_sub(self.items.len()) + 1;
        missing.min(if values { VALUES } else { HEADS })
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

/// The token of a DID.
fn token(statement: &PreparedStatement, did: &str) -> Result<i64, StoreError> {
    let token = statement.calculate_token(&(did,)).ok().flatten();
    let token = token.map(|token| token.value());
    token.ok_or_else(|| StoreError::Query(format!("{did:?} is no place to go on from")))
}

impl Reader {
    /// A page of records.
    pub(super) async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        query.check()?;
        let position = query.position()?;
        let mut filling = Filling {
            items: Vec::new(),
            limit: page_limit(query.limit),
            bytes: 0,
            more: false,
        };
        match &query.did {
            Some(did) => {
                let start = start(did, query, position);
                self.fill_repo(did, query, start, &mut filling).await?;
            }
            None => self.fill_all(query, position, &mut filling).await?,
        }
        Ok(filling.page())
    }

    async fn fill_all(
        &self,
        query: &RecordsQuery,
        position: Option<Position<'_>>,
        filling: &mut Filling,
    ) -> Result<(), StoreError> {
        let mut after = FIRST_TOKEN;
        if let Some((did, ..)) = position.filter(|(did, ..)| !did.is_empty()) {
            let rest = start(did, query, position);
            self.fill_repo(did, query, rest, filling).await?;
            after = token(&self.statements.repo, did)?;
            for next in self.dids_beside(did, after).await? {
                if filling.more {
                    return Ok(());
                }
                self.fill_repo(&next, query, Start::All, filling).await?;
            }
        }
        if filling.more {
            return Ok(());
        }
        if query.collection.is_some() {
            return self.fill_collection(query, after, filling).await;
        }
        let statement = match query.values {
            true => &self.statements.scan,
            false => &self.statements.scan_heads,
        };
        self.fill(statement, (after,), query.values, filling).await
    }

    /// The greater DIDs of the same token.
    async fn dids_beside(&self, did: &str, token: i64) -> Result<Vec<String>, StoreError> {
        let ask = Ask {
            table: "records",
            statement: &self.statements.dids_at,
            values: (token,),
            rows: DIDS,
        };
        let mut dids = Vec::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (rows, next) = self.page::<(String,), _>(&ask, from).await?;
            let greater = rows.into_iter().map(|(found,)| found);
            dids.extend(greater.filter(|found| found.as_str() > did));
            paging = next;
        }
        dids.sort();
        Ok(dids)
    }

    /// One collection of all repositories beyond a token, several of them at once.
    async fn fill_collection(
        &self,
        query: &RecordsQuery,
        after: i64,
        filling: &mut Filling,
    ) -> Result<(), StoreError> {
        let ask = Ask {
            table: "records",
            statement: &self.statements.dids,
            values: (after,),
            rows: DIDS,
        };
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (dids, next) = self.page::<(String,), _>(&ask, from).await?;
            let firsts = dids.into_iter().map(|(did,)| self.first_of(did, query));
            let mut firsts = stream::iter(firsts).buffered(AHEAD);
            while let Some((did, records, rest)) = firsts.try_next().await? {
                let last = records.last();
                let last = last.map(|last| (last.collection.clone(), last.rkey.clone()));
                filling.extend(records);
                if !filling.more
                    && let (true, Some((collection, rkey))) = (rest, last)
                {
                    let rest = Start::Beyond(&collection, &rkey);
                    self.fill_repo(&did, query, rest, filling).await?;
                }
                if filling.more {
                    return Ok(());
                }
            }
            paging = next;
        }
        Ok(())
    }

    /// The first records of one collection of a repository, and whether there may be more.
    async fn first_of(
        &self,
        did: String,
        query: &RecordsQuery,
    ) -> Result<(String, Vec<Record>, bool), StoreError> {
        let nsid = query.collection.as_deref().unwrap_or_default();
        let statement = match query.values {
            true => &self.statements.records_in,
            false => &self.statements.record_heads_in,
        };
        let ask = Ask {
            table: "records",
            statement,
            values: (did.as_str(), nsid, ""),
            rows: FIRST,
        };
        let page = self.record_page(&ask, query.values, PagingState::start());
        let (records, next) = page.await?;
        let mut rest = next.is_some();
        // A page may end before its first row, for what was deleted.
        if rest && records.is_empty() {
            rest = false;
            let mut all = Vec::new();
            let mut paging = next;
            while let Some(from) = paging.filter(|_| all.is_empty()) {
                let (records, next) = self.record_page(&ask, query.values, from).await?;
                all = records;
                rest = next.is_some();
                paging = next;
            }
            return Ok((did, all, rest));
        }
        Ok((did, records, rest))
    }

    /// The records of one repository.
    async fn fill_repo(
        &self,
        did: &str,
        query: &RecordsQuery,
        start: Start<'_>,
        filling: &mut Filling,
    ) -> Result<(), StoreError> {
        let beyond = match start {
            _ if did.is_empty() => return Ok(()),
            Start::Nowhere => return Ok(()),
            Start::All => None,
            Start::Beyond(collection, rkey) => Some((collection, rkey)),
        };
        let statements = &self.statements;
        let Some(nsid) = query.collection.as_deref() else {
            let statement = match query.values {
                true => &statements.records_of,
                false => &statements.record_heads_of,
            };
            let (collection, rkey) = beyond.unwrap_or_default();
            let key = (did, collection, rkey);
            return self.fill(statement, key, query.values, filling).await;
        };
        let statement = match (query.descending, query.values) {
            (false, true) => &statements.records_in,
            (false, false) => &statements.record_heads_in,
            (true, true) => &statements.records_before,
            (true, false) => &statements.record_heads_before,
        };
        // No record key is longer than 512 bytes, so this is greater than all.
        let greatest = char::MAX.to_string().repeat(129);
        let end = if query.descending {
            greatest.as_str()
        } else {
            ""
        };
        let key = (did, nsid, beyond.map_or(end, |(_, rkey)| rkey));
        self.fill(statement, key, query.values, filling).await
    }

    /// Takes what a question gives until the page is full.
    async fn fill<V: SerializeRow + Sync>(
        &self,
        statement: &PreparedStatement,
        values: V,
        bytes: bool,
        filling: &mut Filling,
    ) -> Result<(), StoreError> {
        let mut ask = Ask {
            table: "records",
            statement,
            values,
            rows: 0,
        };
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging.filter(|_| !filling.more) {
            ask.rows = filling.wanted(bytes);
            let (records, next) = self.record_page(&ask, bytes, from).await?;
            filling.extend(records);
            paging = next;
        }
        Ok(())
    }

    async fn record_page<V: SerializeRow + Sync>(
        &self,
        ask: &Ask<'_, V>,
        bytes: bool,
        paging: PagingState,
    ) -> Result<Rows<Record>, StoreError> {
        if bytes {
            let (rows, next) = self.page::<RecordRow, _>(ask, paging).await?;
            let records: Result<_, _> = rows.into_iter().map(read_record).collect();
            return Ok((records?, next));
        }
        let (rows, next) = self.page::<HeadRow, _>(ask, paging).await?;
        let records: Result<_, _> = rows.into_iter().map(read_head).collect();
        Ok((records?, next))
    }

    /// A page of repositories.
    pub(super) async fn repos(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repo>, StoreError> {
        let limit = page_limit(limit);
        let mut items = Vec::new();
        let mut after = FIRST_TOKEN;
        if let Some(did) = cursor.filter(|did| !did.is_empty()) {
            after = token(&self.statements.repo, did)?;
            let statement = &self.statements.repos_at;
            self.fill_repos(statement, after, did, limit, &mut items)
                .await?;
            items.sort_by(|a, b| a.did.cmp(&b.did));
        }
        let statement = &self.statements.repos;
        self.fill_repos(statement, after, "", limit, &mut items)
            .await?;
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let cursor = last.map(|last: &Repo| last.did.clone());
        Ok(Page { items, cursor })
    }

    /// Takes repositories with greater DIDs until there is one more than the page can hold.
    async fn fill_repos(
        &self,
        statement: &PreparedStatement,
        token: i64,
        beyond: &str,
        limit: usize,
        items: &mut Vec<Repo>,
    ) -> Result<(), StoreError> {
        let ask = Ask {
            table: "repos",
            statement,
            values: (token,),
            rows: REPOS.min(limit + 1),
        };
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging.filter(|_| items.len() <= limit) {
            let (rows, next) = self.page::<RepoRow, _>(&ask, from).await?;
            for row in rows.into_iter().filter(|row| row.0.as_str() > beyond) {
                items.push(read_repo(row)?);
            }
            paging = next;
        }
        Ok(())
    }
}
