//! What a request comes to: its scope, its kind, and where its repositories are found.

use super::discover::Source;
use super::model::{Force, JobRequest, JobType};
use super::tools::Tools;
use crate::config::CollectionFilter;
use crate::store::{RecordsQuery, StoreError};

/// More names than this are found by listing all repositories once.
const MAX_BY_COLLECTION: usize = 20;

/// The spelling of what a job covers; one job of it at a time. Depth does not matter: two jobs over the same repositories and
/// collections would fetch the same. What the ledger misses is a scope of its own.
pub(super) fn scope(request: &JobRequest) -> String {
    let collections = match request.collections.as_slice() {
        [] => "*".to_owned(),
        names => names.join(","),
    };
    let dids = match request.dids.as_slice() {
        [] => "*".to_owned(),
        [did] => did.clone(),
        dids => {
            let hash = xxhash_rust::xxh3::xxh3_128(dids.join(",").as_bytes());
            format!("{} dids {hash:032x}", dids.len())
        }
    };
    match kind(request) {
        JobType::CatchUp => "gaps".to_owned(),
        _ => format!("{collections} of {dids}"),
    }
}

pub(super) fn kind(request: &JobRequest) -> JobType {
    let windowed = request.days.is_some_and(|days| days > 0.0);
    match request {
        _ if !request.dids.is_empty() => JobType::Repos,
        _ if !request.collections.is_empty() => JobType::Collection,
        _ if request.force == Some(Force::CatchUp) => JobType::CatchUp,
        _ if windowed => JobType::Window,
        _ => JobType::FullSync,
    }
}

/// Where a job finds its repositories, in this order.
pub(super) fn sources(
    request: &JobRequest,
    indexed: &CollectionFilter,
    relays: &[String],
) -> Vec<Source> {
    if !request.dids.is_empty() {
        return vec![Source::Dids];
    }
    let names = match request.collections.as_slice() {
        [] => indexed
            .names()
            .filter(|names| names.len() <= MAX_BY_COLLECTION),
        names => Some(names.to_vec()),
    };
    let mut sources = Vec::new();
    for relay in relays {
        match &names {
            Some(names) => sources.extend(names.iter().map(|name| Source::ByCollection {
                relay: relay.clone(),
                collection: name.clone(),
            })),
            None => sources.push(Source::Relay {
                relay: relay.clone(),
            }),
        }
    }
    // Who repairs everything finds out as well what is shown no more, or again.
    let hidden = matches!(kind(request), JobType::CatchUp | JobType::FullSync);
    sources.push(Source::Held { hidden });
    sources
}

/// Whether anything is held of a repository of what a job is for (no collections: all that is indexed): it may be gone at its host.
pub(super) async fn holds_any(
    tools: &Tools,
    collections: &[String],
    did: &str,
) -> Result<bool, StoreError> {
    if collections.is_empty() {
        return match tools.indexed.now().is_all() {
            true => Ok(true),
            false => holds(tools, did, None).await,
        };
    }
    for collection in collections {
        if holds(tools, did, Some(collection)).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether anything of a repository is held.
async fn holds(tools: &Tools, did: &str, collection: Option<&String>) -> Result<bool, StoreError> {
    let mut query = RecordsQuery {
        did: Some(did.to_owned()),
        collection: collection.cloned(),
        limit: 1,
        ..RecordsQuery::default()
    };
    loop {
        let page = tools.store.records(&query).await?;
        // A page may be empty before the end.
        if !page.items.is_empty() || page.cursor.is_none() {
            return Ok(!page.items.is_empty());
        }
        query.cursor = page.cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(collections: &[&str], dids: &[&str]) -> JobRequest {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        JobRequest {
            collections: owned(collections),
            dids: owned(dids),
            ..JobRequest::default()
        }
    }

    #[test]
    fn requests_over_the_same_have_one_scope() {
        let days = JobRequest {
            days: Some(3.0),
            ..request(&[], &[])
        };
        assert_eq!(scope(&days), scope(&request(&[], &[])));
        let all = [
            request(&[], &[]),
            request(&["a.b.c"], &[]),
            request(&["a.b.c", "a.b.d"], &[]),
            request(&[], &["did:web:a"]),
            request(&["a.b.c"], &["did:web:a"]),
            request(&[], &["did:web:a", "did:web:b"]),
            request(&[], &["did:web:a", "did:web:c"]),
        ];
        let mut scopes: Vec<String> = all.iter().map(scope).collect();
        scopes.sort();
        scopes.dedup();
        assert_eq!(scopes.len(), all.len());
    }

    #[test]
    fn names_are_asked_for_by_collection_and_prefixes_are_not() {
        let relays = ["https://r".to_owned()];
        let by = |filter: &str| {
            sources(
                &request(&[], &[]),
                &CollectionFilter::parse(filter).unwrap(),
                &relays,
            )
        };
        let relay = || "https://r".to_owned();
        let held = Source::Held { hidden: true };
        assert_eq!(by(""), [Source::Relay { relay: relay() }, held.clone()]);
        assert_eq!(by("a.b.c,d.e.*"), by(""));
        let collection = "a.b.c".to_owned();
        let by_collection = Source::ByCollection {
            relay: relay(),
            collection,
        };
        assert_eq!(by("a.b.c"), [by_collection, held]);
        let given = sources(
            &request(&[], &["did:web:a"]),
            &CollectionFilter::ALL,
            &relays,
        );
        assert_eq!(given, [Source::Dids]);
    }
}
