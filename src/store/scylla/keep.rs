//! Jobs, what failed of them, choices, and where repositories live.
//!
//! Jobs are changed by transactions alone, which have timestamps of the servers'. All else has no version, so its timestamp
//! is the time of writing, and what this process writes later wins, be it a deletion.

use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;

use super::apply::Writes;
use super::changes::{applied, first, many_at_once, signed};
use super::reader::{Ask, Reader, Row, broken, natural};
use crate::store::filling::Filling;
use crate::store::limits::{
    CHOICE_BODY, FAILURE_BODY, JOB_BODY, check_choice, check_failures, check_job, check_pds,
};
use crate::store::{Choice, ChoiceKind, JobFailure, JobRow, Page, StoreError};

/// Most rows of a request.
const ROWS: usize = 1000;

/// id, epoch, body.
type Job = (i64, Option<i64>, Option<Vec<u8>>);
/// did, collection, body.
type Failure = (String, String, Option<Vec<u8>>);
/// name, body.
type Named = (String, Option<Vec<u8>>);

impl Writes {
    /// Writes a job where there is none, or the one of this epoch.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`], [`StoreError::Closed`], [`StoreError::Lease`].
    pub async fn put_job(&self, job: &JobRow, replaces: Option<u64>) -> Result<bool, StoreError> {
        check_job(job, replaces)?;
        let (id, epoch) = (signed("job id", job.id)?, signed("epoch", job.epoch)?);
        let body = job.body.as_slice();
        let Ok(before) = replaces.map(i64::try_from).transpose() else {
            return Ok(false); // no epoch that was ever written
        };
        let (requests, statements) = (&self.requests, &self.statements);
        let (answer, again) = match before {
            None => {
                let values = (id, epoch, body);
                let sent = requests.transact("jobs", &statements.insert_job, values);
                sent.await?
            }
            Some(before) => {
                let values = (epoch, body, id, before);
                let sent = requests.transact("jobs", &statements.update_job, values);
                sent.await?
            }
        };
        let rows = answer.into_rows_result().ok();
        match rows.as_ref().and_then(applied) {
            Some(false) if again => self.is_held(id, epoch, body).await,
            Some(applied) => Ok(applied),
            None => Err(StoreError::Unavailable(
                "a transaction on jobs was answered without [applied]".to_owned(),
            )),
        }
    }

    /// Whether this is what transactions made of a job.
    async fn is_held(&self, id: i64, epoch: i64, body: &[u8]) -> Result<bool, StoreError> {
        let statement = &self.statements.read_job;
        let answer = self
            .requests
            .read_to_write("jobs", statement, (id,))
            .await?;
        let held: Option<(Option<i64>, Option<Vec<u8>>)> = first(answer)?;
        Ok(held.is_some_and(|held| held == (Some(epoch), Some(body.to_vec()))))
    }

    /// Writes failures.
    ///
    /// # Errors
    ///
    /// As for [`Writes::put_job`].
    pub async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        check_failures(failures)?;
        many_at_once(failures, |failure| self.put_failure(failure)).await
    }

    async fn put_failure(&self, failure: &JobFailure) -> Result<(), StoreError> {
        let JobFailure {
            job,
            did,
            collection,
            body,
        } = failure;
        let id = signed("job id", *job)?;
        let values = (id, did, collection, body.as_slice(), self.stamps.next());
        let statement = &self.statements.put_failure;
        self.requests.write("job_failures", statement, values).await
    }

    /// Removes failures.
    ///
    /// # Errors
    ///
    /// As for [`Writes::put_job`].
    pub async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        many_at_once(failures, |failure| self.clear_failure(failure)).await
    }

    async fn clear_failure(&self, failure: &JobFailure) -> Result<(), StoreError> {
        let id = signed("job id", failure.job)?;
        let values = (self.stamps.next(), id, &failure.did, &failure.collection);
        let statement = &self.statements.delete_failure;
        self.requests.write("job_failures", statement, values).await
    }

    /// Writes a choice.
    ///
    /// # Errors
    ///
    /// As for [`Writes::put_job`].
    pub async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        check_choice(choice)?;
        let (kind, body) = (choice.kind.as_str(), choice.body.as_slice());
        let values = (kind, &choice.name, body, self.stamps.next());
        let statement = &self.statements.put_choice;
        self.requests.write("choices", statement, values).await
    }

    /// Removes a choice.
    ///
    /// # Errors
    ///
    /// As for [`Writes::put_job`].
    pub async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        let values = (self.stamps.next(), kind.as_str(), name);
        let statement = &self.statements.delete_choice;
        self.requests.write("choices", statement, values).await
    }

    /// Notes where a repository lives.
    ///
    /// # Errors
    ///
    /// As for [`Writes::put_job`].
    pub async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        check_pds(did, pds)?;
        let values = (self.stamps.next(), pds, did);
        let statement = &self.statements.put_pds;
        self.requests.write("repos", statement, values).await
    }
}

impl Reader {
    /// One job.
    pub(super) async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        let Ok(id) = i64::try_from(id) else {
            return Ok(None);
        };
        let row = self.row("jobs", &self.statements.job, &(id,)).await?;
        row.map(read_job).transpose()
    }

    /// A page of jobs, the newest first.
    pub(super) async fn jobs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobRow>, StoreError> {
        let greatest = match cursor.map(str::parse::<i64>) {
            None => i64::MAX,
            Some(Ok(id)) => id.saturating_sub(1),
            Some(Err(_)) => return Err(bad_cursor(cursor, "jobs")),
        };
        let mut filling = Filling::new(limit);
        let ask = Ask {
            table: "jobs",
            statement: &self.statements.jobs,
            values: (greatest,),
            rows: filling.wanted(JOB_BODY).min(ROWS),
        };
        self.each(&ask, |row| {
            let job = read_job(row)?;
            let bytes = job.body.len();
            Ok(filling.take(job, bytes))
        })
        .await?;
        Ok(filling.page(|last| last.id.to_string()))
    }

    /// One failure.
    pub(super) async fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        let Ok(id) = i64::try_from(job) else {
            return Ok(None);
        };
        let (statement, key) = (&self.statements.failure, (id, did, collection));
        let row = self.row("job_failures", statement, &key).await?;
        row.map(|row| read_failure(job, row)).transpose()
    }

    /// A page of a job's failures.
    pub(super) async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        // A collection has no slash, whatever a DID has.
        let beyond = match cursor.map(|cursor| cursor.rsplit_once('/')) {
            None => ("", ""),
            Some(Some(beyond)) => beyond,
            Some(None) => return Err(bad_cursor(cursor, "failures")),
        };
        let mut filling = Filling::new(limit);
        if let Ok(id) = i64::try_from(job) {
            let ask = Ask {
                table: "job_failures",
                statement: &self.statements.failures,
                values: (id, beyond.0, beyond.1),
                rows: filling.wanted(FAILURE_BODY).min(ROWS),
            };
            self.each(&ask, |row| {
                let failure = read_failure(job, row)?;
                let bytes = failure.body.len();
                Ok(filling.take(failure, bytes))
            })
            .await?;
        }
        Ok(filling.page(|last| format!("{}/{}", last.did, last.collection)))
    }

    /// A page of a list.
    pub(super) async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        let (statement, start) = match cursor {
            Some(name) if name >= prefix => (&self.statements.choices_beyond, name),
            _ => (&self.statements.choices_from, prefix),
        };
        let mut filling = Filling::new(limit);
        let ask = Ask {
            table: "choices",
            statement,
            values: (kind.as_str(), start),
            rows: filling.wanted(CHOICE_BODY).min(ROWS),
        };
        self.each(&ask, |(name, body): Named| {
            let body = body.ok_or_else(|| broken("choices", &name))?;
            let bytes = body.len();
            let wanted = name.starts_with(prefix);
            Ok(wanted && filling.take(Choice { kind, name, body }, bytes))
        })
        .await?;
        Ok(filling.page(|last| last.name.clone()))
    }

    /// Shows the rows of an answer until `take` wants no more.
    async fn each<R: Row, V: SerializeRow + Sync>(
        &self,
        ask: &Ask<'_, V>,
        mut take: impl FnMut(R) -> Result<bool, StoreError> + Send,
    ) -> Result<(), StoreError> {
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (rows, next) = self.page::<R, _>(ask, from).await?;
            for row in rows {
                if !take(row)? {
                    return Ok(());
                }
            }
            paging = next;
        }
        Ok(())
    }
}

fn read_job((id, epoch, body): Job) -> Result<JobRow, StoreError> {
    let read = || {
        Some(JobRow {
            id: natural(id)?,
            epoch: natural(epoch?)?,
            body: body?,
        })
    };
    read().ok_or_else(|| broken("jobs", &id.to_string()))
}

fn read_failure(job: u64, (did, collection, body): Failure) -> Result<JobFailure, StoreError> {
    let body = body.ok_or_else(|| broken("job_failures", &format!("{job}/{did}/{collection}")))?;
    Ok(JobFailure {
        job,
        did,
        collection,
        body,
    })
}

fn bad_cursor(cursor: Option<&str>, of: &str) -> StoreError {
    let cursor = cursor.unwrap_or_default();
    StoreError::Query(format!("{cursor:?} is no cursor of {of}"))
}
