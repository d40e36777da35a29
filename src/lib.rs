//! Penstock keeps a store equal to what the AT Protocol network has published.
//!
//! The way of a frame: [`relay`] reads it from a WebSocket, [`pipeline`] routes it by the slot of its DID to a lane,
//! [`decode`] turns it into an event, the lane turns that into versioned writes, [`store`] makes them durable, and
//! [`ledger`] writes down what is held. [`backfill`] finds what of the past is to be read. [`daemon`] puts the parts
//! together; read it first.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod api;
pub mod backfill;
pub mod clock;
pub mod command;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod dump;
pub mod fetch;
pub mod identity;
pub mod ledger;
pub mod pipeline;
pub mod relay;
pub mod service;
pub mod slot;
pub mod store;
pub mod telemetry;
