//! One record by itself: new in a window, while its block is older and so not in the window's CAR.

use std::time::Duration;

use super::discover::{Found, escaped};
use super::failure::Failure;
use super::repository::{Alone, ReadError, Records};
use super::tools::Tools;
use super::unit::{Target, xrpc};
use crate::decode;
use crate::decode::car::Car;
use crate::fetch::{FetchLimits, Patience};
use crate::store::{Complete, RecordBody, RecordWrite, WriteBatch};

/// A record and the nodes that prove it.
const LIMITS: FetchLimits = FetchLimits {
    bytes: 4 << 20,
    time: Duration::from_secs(60),
    idle: Duration::from_secs(20),
};

/// Fetches and writes a record, unless it is held as it is.
pub(super) async fn read(
    tools: &Tools,
    found: &Found,
    target: &Target,
    leaf: &Alone,
    complete: &Complete,
    written: &mut Records,
    patience: &Patience,
) -> Result<(), ReadError> {
    let (did, collection, rkey) = (&found.did, &leaf.collection, &leaf.rkey);
    let held = tools.store.record(did, collection, rkey).await?;
    if held.is_some_and(|held| held.cid == leaf.cid) {
        return Ok(());
    }
    let mut url = xrpc(target.origin(), "getRecord", did);
    url.push_str(&format!("&collection={collection}&rkey={}", escaped(rkey)));
    let answer = tools
        .fetcher
        .get(&url, LIMITS, patience)
        .await
        .map_err(ReadError::Fetch)?;
    let missing = || {
        let message = format!(
            "{collection}/{rkey}: the answer of getRecord does not hold {}",
            leaf.cid
        );
        ReadError::Failed(Failure::new("missing_block", message, false))
    };
    let car = Car::parse(&answer).map_err(|_| missing())?;
    let mut blocks = car.blocks().map_while(Result::ok);
    let block = blocks
        .find(|block| block.cid == leaf.cid && block.verify())
        .ok_or_else(missing)?;
    let mut json = Vec::new();
    if tools.options.json {
        decode::record_to_json(block.data, &mut json);
    }
    let mut batch = WriteBatch::new();
    batch.put_record(RecordWrite {
        did,
        collection,
        rkey,
        version: complete.version,
        rev: complete.rev,
        body: Some(RecordBody {
            cid: leaf.cid,
            record: block.data,
            json: Some(json.as_slice()).filter(|json| !json.is_empty()),
        }),
    });
    tools.store.apply(batch).await?;
    *written.entry(collection.clone()).or_default() += 1;
    Ok(())
}
