//! Jobs: a backfill asked for by configuration or by an operator, that can be watched, stopped, resumed and believed.

mod model;

pub use model::{
    CollectionCounts, Estimate, FailureView, Force, JobRequest, JobStatus, JobType, JobView, Jobs,
    JobsError, Stage, Started,
};
