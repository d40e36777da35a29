//! Bytes to events: pure functions over borrowed bytes, no I/O, no async.
//!
//! [`peek()`] reads a frame's type, DID, `seq` and `time` without touching its blocks; [`Decoder`] opens the rest, and
//! [`record_to_json`] turns a record into AT Protocol JSON. [`cbor`], [`car`], [`commit`] and [`tree`] read the layers
//! below; [`signature`] checks who signed a commit.

mod blocks;
pub mod car;
pub mod cbor;
pub mod cid;
pub mod commit;
mod error;
pub mod event;
mod frame;
mod from_json;
mod json;
mod message;
mod ops;
mod peek;
mod record;
pub mod signature;
pub mod syntax;
pub mod tid;
pub mod time;
pub mod tree;

pub use cid::Cid;
pub use error::DecodeError;
pub use event::{
    Account, Action, Commit, Event, Identity, Info, OpView, Reason, RecordFault, Sync,
};
pub use frame::{DecodeOptions, Decoder, Limits, REV_AHEAD_MICROS, Verify};
pub use from_json::{FromJsonError, record_from_json};
pub use ops::Ops;
pub use peek::{Kind, Peek, notice, peek};
pub use record::{check_record, record_to_json};
pub use signature::SigningKey;
pub use tid::Tid;
