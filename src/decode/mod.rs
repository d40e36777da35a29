//! Bytes to events: pure functions over borrowed bytes, no I/O, no async.
//!
//! [`peek`] reads a frame's type, DID, `seq` and `time` without touching its blocks; [`Decoder`] opens the rest.

pub mod cid;
pub mod event;
pub mod tid;

pub use cid::Cid;
pub use event::{
    Account, Action, Commit, Event, Identity, Info, OpView, Reason, RecordFault, Sync,
};
pub use tid::Tid;
