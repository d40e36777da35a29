//! Jobs whose changes are made and whose answers are lost: nothing is made twice, and no job ends for it.

use std::time::Duration;

use penstock::backfill::jobs::{JobStatus, Jobs};
use penstock::store::JobRow;
use penstock_loadtest::network::{Network, Options};
use scylla::errors::{DbError, WriteType};
use scylla::statement::Consistency;

use crate::faults::{Shaken, in_time};
use crate::jobs::everything;
use crate::keyspaces::Keyspace;
use crate::proxy::Fault;
use crate::site::{How, Worker, check};

fn job(epoch: u64, body: &str) -> JobRow {
    JobRow {
        id: 7,
        epoch,
        body: body.into(),
    }
}

/// The node could not tell whether a transaction was made.
fn unsure() -> Fault {
    Fault::Error(DbError::WriteTimeout {
        consistency: Consistency::LocalSerial,
        received: 0,
        required: 1,
        write_type: WriteType::Cas,
    })
}

#[tokio::test]
async fn a_change_of_a_job_is_made_once_however_its_answer_is_lost() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let shaken = Shaken::in_peace(keyspace).await;
    let late = Fault::Late(Duration::from_millis(600));
    let faults = [Fault::NoAnswer, late, Fault::Cut, unsure()];
    for (fault, epoch) in faults.into_iter().zip(1..) {
        let replaces = (epoch > 1).then(|| epoch - 1);
        shaken.between.always(fault.clone());
        let store = shaken.store.clone();
        let writing =
            tokio::spawn(async move { store.put_job(&job(epoch, "ours"), replaces).await });
        let trouble = shaken.trouble().await;
        assert!(trouble.contains("jobs"), "{fault:?}: {trouble}");
        shaken.between.mend();
        let made = in_time(&format!("{fault:?}"), writing).await.unwrap();
        assert!(made.unwrap(), "{fault:?}");
        let held = shaken.store.job(7).await.unwrap();
        assert_eq!(held, Some(job(epoch, "ours")), "{fault:?}");
        let other = job(epoch, "another's");
        let made = shaken.store.put_job(&other, replaces).await;
        assert!(!made.unwrap(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_through_lost_answers_and_stays_one() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let shaken = Shaken::in_peace(keyspace).await;
    let network = Network::start(Options::default()).unwrap();
    let mut worker = Worker::start(&network, &shaken.store, &How::default()).await;
    shaken.between.happen(&[
        (0.05, Fault::NoAnswer),
        (0.05, Fault::Late(Duration::from_millis(400))),
        (0.02, unsure()),
        (0.005, Fault::Cut),
    ]);
    let id = in_time("the start", worker.begin(everything())).await;
    in_time(
        "a part",
        worker.until(id, |view| {
            view.processed_repos > 30 || view.status.is_over()
        }),
    )
    .await;
    // Killed as well: what was on its way may be made or not.
    in_time("the end", worker.kill()).await;
    worker = Worker::start(&network, &shaken.store, &How::default()).await;
    let view = in_time("the job", worker.over(id)).await;
    assert_eq!(
        (view.status, view.processed_repos, view.failed_repos),
        (JobStatus::Completed, network.dids().len() as u64, 0),
        "{view:?}"
    );
    shaken.between.mend();
    let jobs = worker.roster.list(None, 10).await.unwrap().items;
    assert_eq!(jobs.len(), 2, "this one and the standing one: {jobs:?}");
    check(&network, &*shaken.store).await;
    worker.stop().await;
}
