//! What is looked at while nobody else writes a repository: whether what was fetched still may be written, and what it is complete for.

use std::collections::BTreeSet;

use super::failure::Failure;
use super::repository::Records;
use super::tools::Tools;
use super::unit::Target;
use crate::config::CollectionFilter;
use crate::decode::Tid;
use crate::store::{RecordsQuery, Repo, Scope, StoreError};

/// What is held of a repository, unless that changed since it was asked for, so that a copy of this revision is of the past.
pub(super) async fn held(
    tools: &Tools,
    did: &str,
    target: &Target,
    rev: Tid,
) -> Result<Repo, Failure> {
    let held = tools.store.repo(did).await?.unwrap_or_default();
    if is_overtaken(target.held.as_ref(), &held, rev) {
        let message = format!("what is held of {did} changed while {rev} was fetched");
        return Err(Failure::new("overtaken", message, true));
    }
    Ok(held)
}

/// Whether a newer snapshot, a removal or another status came between: at a version above those, this copy would bring back what
/// they removed, and remove what they brought.
fn is_overtaken(before: Option<&Repo>, now: &Repo, rev: Tid) -> bool {
    let nothing = Repo::default();
    let before = before.unwrap_or(&nothing);
    let complete = now.complete.as_ref();
    let is_newer = complete.is_some_and(|complete| complete.rev > rev);
    let status = |repo: &Repo| (repo.active(), repo.status_text().map(str::to_owned));
    (is_newer && now.complete != before.complete)
        || now.floors != before.floors
        || status(now) != status(before)
}

/// What a full snapshot is complete for: the whole repository, or each collection of it that is wanted and in the snapshot or held.
///
/// Prefixes want collections that nobody has seen, too: it is the whole repository where nothing else is held.
pub(super) async fn scopes(
    tools: &Tools,
    did: &str,
    written: &Records,
    filter: &CollectionFilter,
) -> Result<Vec<Scope>, StoreError> {
    if filter.is_all() {
        return Ok(vec![Scope::Repo]);
    }
    let names = filter.names();
    let mut is_whole = names.is_none();
    let mut collections: BTreeSet<String> = written.keys().cloned().collect();
    collections.extend(names.unwrap_or_default());
    let mut after: Option<String> = None;
    // From collection to collection: no record key is beyond this one.
    let last = "~".repeat(513);
    loop {
        let page = tools
            .store
            .records(&RecordsQuery {
                did: Some(did.to_owned()),
                cursor: after,
                limit: 1,
                ..RecordsQuery::default()
            })
            .await?;
        let Some(record) = page.items.into_iter().next() else {
            match page.cursor {
                // A page may be empty before the end.
                Some(cursor) => {
                    after = Some(cursor);
                    continue;
                }
                None => break,
            }
        };
        after = Some(format!("{did}/{}/{last}", record.collection));
        match filter.wants(&record.collection) {
            true => _ = collections.insert(record.collection),
            false => is_whole = false,
        }
    }
    Ok(match is_whole {
        true => vec![Scope::Repo],
        false => collections.into_iter().map(Scope::Collection).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Complete, Floor, RepoStatus};

    fn repo(complete: u64) -> Repo {
        Repo {
            complete: Some(Complete {
                rev: Tid::new(complete, 0),
                version: complete,
                filter: String::new(),
            }),
            ..Repo::default()
        }
    }

    #[test]
    fn a_copy_of_the_past_is_not_written() {
        let rev = Tid::new(20, 0);
        let before = repo(10);
        assert!(!is_overtaken(None, &Repo::default(), rev));
        assert!(!is_overtaken(Some(&before), &before, rev));
        assert!(
            !is_overtaken(Some(&before), &repo(15), rev),
            "that is older"
        );
        assert!(
            !is_overtaken(Some(&before), &repo(20), rev),
            "the very same"
        );
        assert!(is_overtaken(Some(&before), &repo(21), rev));
        assert!(is_overtaken(None, &repo(21), rev));
        // The host has gone back to an older state, which is known for long.
        assert!(!is_overtaken(Some(&repo(30)), &repo(30), rev));

        let mut removed = before.clone();
        removed.floors.push(Floor {
            scope: Scope::Repo,
            version: 10,
        });
        assert!(is_overtaken(Some(&before), &removed, rev));
        assert!(!is_overtaken(Some(&removed), &removed, rev));

        let mut deleted = before.clone();
        let status = |active: bool, text: Option<&str>| RepoStatus {
            active,
            status: text.map(str::to_owned),
        };
        deleted.status = Some((5, status(false, Some("deleted"))));
        assert!(is_overtaken(Some(&before), &deleted, rev));
        let mut active = before.clone();
        active.status = Some((5, status(true, None)));
        assert!(!is_overtaken(Some(&before), &active, rev), "as before");
    }
}
