//! The frozen cells, written byte by byte: fields in their order, each with its length.
//!
//! Of two cells of one timestamp the server keeps the greater bytes, so their order decides ties: the greater `rev`, then
//! the greater CID, then the one with JSON. A field that is absent at the end is left out, not written as null, whose
//! length (-1) would be the greatest.

use scylla::cluster::metadata::ColumnType;
use scylla::errors::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellValueBuilder, CellWriter, WrittenCellProof};

use crate::decode::{Cid, Tid};
use crate::store::{Complete, RecordBody, RepoStatus, RevWrite};

/// `record_value`.
pub(super) struct RecordCell<'a> {
    pub rev: Tid,
    pub body: RecordBody<'a>,
}

/// `repo_head`.
pub(super) struct HeadCell {
    pub rev: Tid,
    pub data: Cid,
    pub commit: Cid,
}

/// The status of an account.
pub(super) struct StatusCell<'a>(pub &'a RepoStatus);

/// `repo_snapshot`.
pub(super) struct CompleteCell<'a>(pub &'a Complete);

impl HeadCell {
    pub fn of(write: &RevWrite<'_>) -> Self {
        Self {
            rev: write.rev,
            data: write.data,
            commit: write.commit,
        }
    }
}

impl SerializeValue for RecordCell<'_> {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        let mut cell = writer.into_value_builder();
        field(&mut cell, &self.rev.encode())?;
        field(&mut cell, &self.body.cid.to_bytes())?;
        field(&mut cell, self.body.record)?;
        if let Some(json) = self.body.json {
            field(&mut cell, json)?;
        }
        cell.finish().map_err(SerializationError::new)
    }
}

impl SerializeValue for HeadCell {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        let mut cell = writer.into_value_builder();
        field(&mut cell, &self.rev.encode())?;
        field(&mut cell, &self.data.to_bytes())?;
        field(&mut cell, &self.commit.to_bytes())?;
        cell.finish().map_err(SerializationError::new)
    }
}

impl SerializeValue for StatusCell<'_> {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        let mut cell = writer.into_value_builder();
        cell.append_bytes(&self.0.cell());
        cell.finish().map_err(SerializationError::new)
    }
}

impl SerializeValue for CompleteCell<'_> {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        let mut cell = writer.into_value_builder();
        field(&mut cell, &self.0.version.to_be_bytes())?;
        field(&mut cell, &self.0.rev.encode())?;
        field(&mut cell, self.0.filter.as_bytes())?;
        cell.finish().map_err(SerializationError::new)
    }
}

fn field(cell: &mut CellValueBuilder<'_>, bytes: &[u8]) -> Result<(), SerializationError> {
    let written = cell.make_sub_writer().set_value(bytes);
    written.map(drop).map_err(SerializationError::new)
}
