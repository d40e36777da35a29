//! Pages of a listing, written straight into the bytes of the answer.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::decode::{RecordFault, record_to_json};
use crate::store::Record;

/// A page is cut here, so that no answer grows beyond it by more than one chunk of rows.
pub(crate) const PAGE_BYTES: usize = 8 << 20;
/// Records read from the store at once, which bounds a page by bytes as well: what a request holds beside its answer.
pub(crate) const CHUNK: usize = 250;

/// `{"NAME":[…],"cursor":"…"}`, the cursor only if there is more.
pub(crate) struct ListBody {
    bytes: Vec<u8>,
    rows: usize,
}

impl ListBody {
    pub(crate) fn new(name: &str) -> Self {
        let bytes = format!("{{\"{name}\":[").into_bytes();
        Self { bytes, rows: 0 }
    }

    pub(crate) fn push(&mut self, row: &impl Serialize) -> Result<(), ApiError> {
        if self.rows > 0 {
            self.bytes.push(b',');
        }
        self.rows += 1;
        serde_json::to_writer(&mut self.bytes, row).map_err(unprintable)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= PAGE_BYTES
    }

    pub(crate) fn finish(mut self, cursor: Option<&str>) -> Result<Response, ApiError> {
        self.bytes.push(b']');
        if let Some(cursor) = cursor {
            self.bytes.extend_from_slice(b",\"cursor\":");
            serde_json::to_writer(&mut self.bytes, cursor).map_err(unprintable)?;
        }
        self.bytes.push(b'}');
        Ok(json(self.bytes))
    }
}

/// An answer of finished JSON.
pub(crate) fn json(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

fn unprintable(error: serde_json::Error) -> ApiError {
    let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    ApiError::new(status, "InternalServerError", error.to_string())
}

/// Makes the JSON of records, in one reused buffer.
#[derive(Default)]
pub(crate) struct Values(Vec<u8>);

impl Values {
    /// The JSON of a record; `None` if its bytes have none, since they are not CBOR.
    pub(crate) fn of(&mut self, record: &Record) -> Option<&RawValue> {
        if let Some(kept) = &record.json {
            self.0.clone_from(kept);
        } else {
            self.0.clear();
            if record_to_json(&record.record, &mut self.0) == Some(RecordFault::NotCbor) {
                return None;
            }
        }
        serde_json::from_slice(&self.0).ok()
    }
}

/// An answer of one row.
pub(crate) fn json_of(row: &impl Serialize) -> Result<Response, ApiError> {
    serde_json::to_vec(row).map(json).map_err(unprintable)
}
