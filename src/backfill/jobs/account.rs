//! What a repository's own host says about the account, and what follows from it.

use std::time::Duration;

use serde::Deserialize;

use super::discover::Found;
use super::failure::Failure;
use super::tools::Tools;
use super::unit::{Outcome, xrpc};
use crate::config::AccountAction;
use crate::decode::{Cid, Tid};
use crate::fetch::{FetchError, FetchLimits, Patience};
use crate::store::{
    RecordsQuery, Removal, Repair, RepairKind, Repo, RepoStatus, Scope, StatusWrite, StoreError,
    WriteBatch,
};

/// Records of a page, where what is left of a repository is looked for.
const PAGE: usize = 200;
/// Bounds of a short answer.
const SHORT: FetchLimits = FetchLimits {
    bytes: 64 << 10,
    time: Duration::from_secs(30),
    idle: Duration::from_secs(20),
};

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: RepoStatus,
    /// When it was asked (microseconds): the version of what it says.
    pub asked: u64,
}

/// The newest commit, as the host says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latest {
    pub cid: Option<Cid>,
    pub rev: Tid,
}

#[derive(Deserialize)]
struct LatestCommit {
    cid: String,
    rev: String,
}

#[derive(Deserialize)]
struct StatusAnswer {
    active: bool,
    status: Option<String>,
}

impl Answer {
    pub fn deleted(asked: u64) -> Self {
        Self::inactive("deleted", asked)
    }

    pub fn active(asked: u64) -> Self {
        let status = RepoStatus {
            active: true,
            status: None,
        };
        Self { status, asked }
    }

    fn inactive(status: &str, asked: u64) -> Self {
        Self {
            status: RepoStatus {
                active: false,
                status: Some(status.to_owned()),
            },
            asked,
        }
    }

    /// What one of the errors of `com.atproto.sync.*` says about the account (protocol.md, section 8).
    pub fn of_error(error: &FetchError, asked: u64) -> Option<Self> {
        let FetchError::Status { name, .. } = error else {
            return None;
        };
        let status = match name.as_str() {
            "RepoNotFound" | "RepoDeleted" => "deleted",
            "RepoTakendown" => "takendown",
            "RepoSuspended" => "suspended",
            "RepoDeactivated" => "deactivated",
            _ => return None,
        };
        Some(Self::inactive(status, asked))
    }
}

/// `getRepoStatus` of the host.
pub(super) async fn ask(
    tools: &Tools,
    did: &str,
    pds: &str,
    patience: &Patience,
) -> Result<Answer, Failure> {
    let asked = tools.clock.now_micros();
    let url = xrpc(pds, "getRepoStatus", did);
    let answer = match tools.fetcher.get(&url, SHORT, patience).await {
        Ok(answer) => answer,
        Err(error) => return Answer::of_error(&error, asked).ok_or_else(|| error.into()),
    };
    let answer: StatusAnswer = serde_json::from_slice(&answer)
        .map_err(|error| Failure::new("garbled", format!("getRepoStatus: {error}"), false))?;
    Ok(Answer {
        status: RepoStatus {
            active: answer.active,
            status: answer
                .status
                .map(|status| status.chars().take(128).collect()),
        },
        asked,
    })
}

/// `getLatestCommit` of the host.
pub(super) async fn latest(
    tools: &Tools,
    did: &str,
    pds: &str,
    patience: &Patience,
) -> Result<Latest, FetchError> {
    let url = xrpc(pds, "getLatestCommit", did);
    let answer = tools.fetcher.get(&url, SHORT, patience).await?;
    let garbled = || FetchError::Unreachable {
        host: pds.to_owned(),
        message: "getLatestCommit answered something else than a commit".to_owned(),
    };
    let latest: LatestCommit = serde_json::from_slice(&answer).map_err(|_| garbled())?;
    Ok(Latest {
        cid: Cid::parse(&latest.cid),
        rev: Tid::parse(latest.rev.as_bytes()).ok_or_else(garbled)?,
    })
}

/// Removes all that is held of a repository, and gives the floor. A collection that was read by itself is newer than what is known
/// of its repository.
async fn remove(tools: &Tools, did: &str, repo: &Repo) -> Result<u64, StoreError> {
    let complete = repo.complete.as_ref().map_or(0, |held| held.version);
    let mut version = repo.rev.map_or(0, Tid::micros).max(complete);
    loop {
        if version > 0 {
            tools
                .store
                .remove(Removal {
                    did: did.to_owned(),
                    scope: Scope::Repo,
                    version,
                    floor: true,
                })
                .await?;
        }
        match newest(tools, did).await? {
            Some(left) if left > version => version = left,
            _ => return Ok(version),
        }
    }
}

/// The newest version of the first records that are held.
async fn newest(tools: &Tools, did: &str) -> Result<Option<u64>, StoreError> {
    let mut query = RecordsQuery {
        did: Some(did.to_owned()),
        limit: PAGE,
        ..RecordsQuery::default()
    };
    loop {
        let page = tools.store.records(&query).await?;
        let newest = page.items.iter().map(|record| record.version).max();
        // A page may be empty before the end.
        if newest.is_some() || page.cursor.is_none() {
            return Ok(newest);
        }
        query.cursor = page.cursor;
    }
}

/// An account that came back while its repository was removed: only a snapshot brings that back.
async fn ask_if_active(tools: &Tools, did: &str, floor: u64) -> Result<(), StoreError> {
    let held = tools.store.repo(did).await?;
    if floor == 0 || !held.is_some_and(|repo| repo.active()) {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    batch.put_repair(Repair {
        did: did.to_owned(),
        id: format!("removal~{floor}~floor"),
        kind: RepairKind::Floor,
        reason: "removed".to_owned(),
        version: floor,
    });
    tools.store.apply(batch).await.map(|_| ())
}

/// Writes what the host says, purges what is to be purged, and clears the questions that this answers.
///
/// The DID document named this host, so an account that is gone here is gone: one that has moved is asked for elsewhere.
pub(super) async fn take(
    tools: &Tools,
    found: &Found,
    answer: &Answer,
) -> Result<Outcome, StoreError> {
    let did = &found.did;
    let guard = tools.locks.lock(did).await;
    let repairs = tools.store.repairs_of(did).await?;
    let mut batch = WriteBatch::new();
    batch.put_status(StatusWrite {
        did: did.clone(),
        version: answer.asked,
        status: answer.status.clone(),
        repair_if_stale: None,
        repair_if_reactivated: Some(Repair {
            did: did.clone(),
            id: format!("host~{}~content", answer.asked),
            kind: RepairKind::Content,
            reason: "reactivated".to_owned(),
            version: 0,
        }),
    });
    tools.store.apply(batch).await?;
    let held = tools.store.repo(did).await?;
    let gone = held.as_ref().is_some_and(|repo| !repo.active());
    let purge = match answer.status.status.as_deref() {
        Some("deleted") => tools.options.on_deleted == AccountAction::Purge,
        Some("takendown") => tools.options.on_takedown == AccountAction::Purge,
        _ => false,
    };
    if let Some(repo) = held.filter(|_| gone && purge) {
        let floor = remove(tools, did, &repo).await?;
        ask_if_active(tools, did, floor).await?;
    }
    // Nothing of a repository that is gone can be fetched; one that is only hidden is asked again when it comes back.
    let deleted = answer.status.status.as_deref() == Some("deleted");
    let answered: Vec<_> = repairs
        .into_iter()
        .filter(|repair| deleted || repair.kind == RepairKind::Status)
        .collect();
    if !answered.is_empty() {
        tokio::time::sleep(tools.store.sync_lag()).await;
        tools.store.clear_repairs(&answered).await?;
    }
    drop(guard);
    Ok(match answer.status.active {
        true => Outcome::Skipped,
        false => Outcome::Inactive,
    })
}
