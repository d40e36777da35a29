//! The records of a collection that is indexed no more, repository by repository, each with a floor.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::tools::Tools;
use crate::decode::Tid;
use crate::store::{RecordsQuery, Removal, Scope, StoreError};

/// Records of a page: so many repositories at most are removed from at once.
const PAGE: usize = 200;

/// Removes what a page of a collection's records is of; gives where the next page is. Nobody may index it meanwhile.
///
/// The floor is the version of what is newest there, by the repository's own times: an older create that comes late stays out
/// also after the collection was indexed again, and only a snapshot brings it back.
pub async fn purge(
    tools: &Arc<Tools>,
    nsid: &str,
    cursor: Option<&str>,
) -> Result<Option<String>, StoreError> {
    let page = tools
        .store
        .records(&RecordsQuery {
            collection: Some(nsid.to_owned()),
            cursor: cursor.map(str::to_owned),
            limit: PAGE,
            ..RecordsQuery::default()
        })
        .await?;
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for record in page.items {
        let of = newest.entry(record.did).or_default();
        *of = record.version.max(*of);
    }
    let mut removing = JoinSet::new();
    for (did, newest) in newest {
        removing.spawn(remove(tools.clone(), did, nsid.to_owned(), newest));
    }
    while let Some(removed) = removing.join_next().await {
        removed.map_err(|error| StoreError::Failed(format!("a removal ended: {error}")))??;
    }
    Ok(page.cursor)
}

/// Removes a collection from a repository, which has a record of it at this version. A collection that was read by itself is newer
/// than what is known of its repository.
async fn remove(
    tools: Arc<Tools>,
    did: String,
    nsid: String,
    newest: u64,
) -> Result<(), StoreError> {
    let _guard = tools.locks.lock(&did).await;
    let repo = tools.store.repo(&did).await?.unwrap_or_default();
    let complete = repo.complete.map_or(0, |complete| complete.version);
    let version = repo.rev.map_or(0, Tid::micros).max(complete).max(newest);
    tools
        .store
        .remove(Removal {
            did,
            scope: Scope::Collection(nsid),
            version,
            floor: true,
        })
        .await
}
