//! What an error of the driver means for the request: whether it may succeed later, and whether the servers had too much.
//!
//! Whatever is not plainly the fault of the values is tried again, for it may pass while the process runs:
//!
//! - A changed password or a dropped role: servers ask who we are when a connection begins, so those that there are go on,
//!   and new ones are refused. Once none is left, writes wait, and go through when the user is let in again. The password
//!   is read at start: after a change of it, restart.
//! - A dropped keyspace or table: writes wait, and go through once it is made again, with the statements prepared anew by the
//!   driver. What it held is gone, so nothing is claimed in a ledger that is not the one of the start: the process ends, and
//!   the next one begins with what the new ledger says.

use scylla::errors::{BadQuery, DbError, ExecutionError, RequestAttemptError};

use super::session::explain;

/// Words of servers that refuse any statement as it stands, whatever its values: a table or keyspace that is missing, a
/// level that they don't know, a full disk. That may pass, and taking it for a fault of the record would set all records
/// aside. (Cassandra, ScyllaDB.)
const MISSING: &[&str] = &[
    "unconfigured table",
    "unconfigured columnfamily",
    "does not exist",
    "can't find a column family",
    "can't find a keyspace",
    "no such column family",
    "no such keyspace",
    "non-existing keyspace",
    "undefined column",
    "unknown identifier",
    "unknown column",
    "undefined name",
    "unrecognized name",
    "consistency level",
    "disk usage",
    "disk utilization",
];

/// Words of servers that call a value too large in an error without a code of its own.
const TOO_LARGE: &[&str] = &["is too large", "is too big", "exceededmaxsize"];

/// The label of a table that is missing, or other than it must be.
pub(super) const SCHEMA: &str = "schema";
/// The label of a node that can't be reached.
pub(super) const CONNECTION: &str = "connection";
/// The label of too few nodes for a quorum.
pub(super) const UNAVAILABLE: &str = "unavailable";

/// The label of a user who may not.
pub(super) const DENIED: &str = "denied";

/// Every label of an error.
pub(super) const KINDS: [&str; 10] = [
    "overloaded",
    "timeout",
    UNAVAILABLE,
    "failure",
    CONNECTION,
    DENIED,
    SCHEMA,
    "server",
    "driver",
    "refused",
];

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The servers have too much to do: again, and fewer at a time.
    Overload,
    /// It may succeed later.
    Again,
    /// These values are never taken.
    Never,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What can be done.
    pub verdict: Verdict,
    /// The label in metrics.
    pub kind: &'static str,
    /// The driver's or the server's words.
    pub words: String,
}

/// What an error means.
pub(super) fn classify(error: &ExecutionError) -> Failure {
    let (verdict, kind) = judge(error);
    let words = explain(&error.to_string());
    Failure {
        verdict,
        kind,
        words,
    }
}

fn judge(error: &ExecutionError) -> (Verdict, &'static str) {
    match error {
        ExecutionError::BadQuery(BadQuery::PartitionKeyExtraction) => (Verdict::Again, "driver"),
        ExecutionError::BadQuery(_) => (Verdict::Never, "refused"),
        ExecutionError::RequestTimeout(_) => (Verdict::Overload, "timeout"),
        ExecutionError::ConnectionPoolError(error) if is_denied(&error.to_string()) => {
            (Verdict::Again, DENIED)
        }
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => {
            (Verdict::Again, CONNECTION)
        }
        ExecutionError::LastAttemptError(error) => judge_attempt(error),
        _ => (Verdict::Again, "driver"),
    }
}

fn judge_attempt(error: &RequestAttemptError) -> (Verdict, &'static str) {
    match error {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => (Verdict::Never, "refused"),
        RequestAttemptError::UnableToAllocStreamId => (Verdict::Overload, "overloaded"),
        RequestAttemptError::BrokenConnectionError(_) => (Verdict::Again, CONNECTION),
        RequestAttemptError::DbError(error, message) => judge_answer(error, message),
        _ => (Verdict::Again, "driver"),
    }
}

fn judge_answer(error: &DbError, message: &str) -> (Verdict, &'static str) {
    match error {
        DbError::Overloaded | DbError::RateLimitReached { .. } => (Verdict::Overload, "overloaded"),
        DbError::WriteTimeout { .. } | DbError::ReadTimeout { .. } => {
            (Verdict::Overload, "timeout")
        }
        DbError::Unavailable { .. } => (Verdict::Overload, UNAVAILABLE),
        DbError::IsBootstrapping => (Verdict::Again, UNAVAILABLE),
        DbError::WriteFailure { .. } | DbError::ReadFailure { .. } => (Verdict::Again, "failure"),
        DbError::AuthenticationError | DbError::Unauthorized => (Verdict::Again, DENIED),
        DbError::Invalid | DbError::SyntaxError if has_any(message, MISSING) => {
            (Verdict::Again, SCHEMA)
        }
        DbError::Invalid | DbError::SyntaxError => (Verdict::Never, "refused"),
        // Cassandra has no code for a mutation that is beyond its bound.
        DbError::ServerError if has_any(message, TOO_LARGE) => (Verdict::Never, "refused"),
        DbError::Unprepared { .. } | DbError::ConfigError => (Verdict::Again, SCHEMA),
        _ => (Verdict::Again, "server"),
    }
}

/// Whether a connection was refused for who we are; the driver tells the causes of connections as texts. A server that can't
/// look it up, for too few of its nodes answer, has not refused anyone.
pub(super) fn is_denied(text: &str) -> bool {
    has_any(text, &["authenticat", "password", "credentials"])
        && !has_any(
            text,
            &[
                "unable to perform authentication",
                "cannot achieve consistency",
            ],
        )
}

fn has_any(message: &str, words: &[&str]) -> bool {
    let message = message.to_ascii_lowercase();
    words.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scylla::errors::{OperationType, WriteType};
    use scylla::statement::Consistency;

    use super::*;

    fn answered(error: DbError, message: &str) -> Failure {
        let error = RequestAttemptError::DbError(error, message.to_owned());
        classify(&ExecutionError::LastAttemptError(error))
    }

    #[test]
    fn who_can_not_be_looked_up_is_not_refused() {
        assert!(is_denied(
            "Provided username cassandra and/or password are incorrect"
        ));
        assert!(is_denied("Authentication failed"));
        assert!(!is_denied(
            "Unable to perform authentication: Cannot achieve consistency level LOCAL_ONE"
        ));
        assert!(!is_denied("connection refused"));
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let consistency = Consistency::LocalQuorum;
        let (received, required) = (1, 2);
        let cases = [
            (DbError::Overloaded, Verdict::Overload, "overloaded"),
            (
                DbError::RateLimitReached {
                    op_type: OperationType::Write,
                    rejected_by_coordinator: true,
                },
                Verdict::Overload,
                "overloaded",
            ),
            (
                DbError::WriteTimeout {
                    consistency,
                    received,
                    required,
                    write_type: WriteType::Simple,
                },
                Verdict::Overload,
                "timeout",
            ),
            (
                DbError::Unavailable {
                    consistency,
                    required,
                    alive: 1,
                },
                Verdict::Overload,
                "unavailable",
            ),
            (
                DbError::WriteFailure {
                    consistency,
                    received,
                    required,
                    numfailures: 1,
                    write_type: WriteType::Simple,
                },
                Verdict::Again,
                "failure",
            ),
            (DbError::IsBootstrapping, Verdict::Again, "unavailable"),
            (DbError::Unauthorized, Verdict::Again, "denied"),
            (DbError::AuthenticationError, Verdict::Again, "denied"),
            (DbError::ServerError, Verdict::Again, "server"),
            (DbError::TruncateError, Verdict::Again, "server"),
            (DbError::Other(0x4321), Verdict::Again, "server"),
        ];
        for (error, verdict, kind) in cases {
            let failure = answered(error.clone(), "words of the server");
            assert_eq!(
                (failure.verdict, failure.kind),
                (verdict, kind),
                "{error:?}"
            );
            assert!(failure.words.contains("words of the server"));
        }
        let timeout = classify(&ExecutionError::RequestTimeout(Duration::from_secs(1)));
        assert_eq!(
            (timeout.verdict, timeout.kind),
            (Verdict::Overload, "timeout")
        );
        let no_plan = classify(&ExecutionError::EmptyPlan);
        assert_eq!(no_plan.verdict, Verdict::Again);
    }

    #[test]
    fn a_schema_that_is_gone_may_come_back() {
        for message in [
            "unconfigured table records",
            "Keyspace penstock does not exist",
            "table penstock.records does not exist",
            "Undefined column name value in table penstock.records",
            "Can't find a column family with UUID 5a1c395e",
        ] {
            let failure = answered(DbError::Invalid, message);
            assert_eq!(
                (failure.verdict, failure.kind),
                (Verdict::Again, "schema"),
                "{message}"
            );
        }
    }

    #[test]
    fn values_that_are_refused_are_not_sent_again() {
        let too_large = "Mutation of 20MiB is too large for the maximum size of 16MiB";
        for (error, message) in [
            (DbError::Invalid, too_large),
            (DbError::ServerError, too_large),
            (
                DbError::Invalid,
                "Cannot use a timestamp this far in the future",
            ),
            (DbError::SyntaxError, "no viable alternative at input"),
        ] {
            let failure = answered(error, message);
            assert_eq!(
                (failure.verdict, failure.kind),
                (Verdict::Never, "refused"),
                "{message}"
            );
        }
        let long = ExecutionError::BadQuery(BadQuery::ValuesTooLongForKey(70_000, 65_535));
        assert_eq!(classify(&long).verdict, Verdict::Never);
    }

    #[test]
    fn words_are_short_and_printable() {
        let failure = answered(
            DbError::Invalid,
            &format!("\x1b[31m{}\n", "x".repeat(10_000)),
        );
        assert!(failure.words.len() <= 600 && !failure.words.contains(char::is_control));
    }
}
