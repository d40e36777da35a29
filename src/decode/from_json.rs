//! AT Protocol JSON to the DAG-CBOR of a record: what `listRecords` shows, as it was signed.

use ipld_core::cid::Cid as IpldCid;
use ipld_core::ipld::Ipld;
use serde_json::{Map, Value};

use super::cbor::MAX_DEPTH;

/// Why a value can't be a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FromJsonError {
    /// A number with a fraction, or beyond 64 bits.
    #[error("a number is no integer of 64 bits")]
    Number,
    /// `$link` without a CID.
    #[error("a $link holds no CID")]
    Link,
    /// `$bytes` without base64.
    #[error("a $bytes holds no base64")]
    Bytes,
    /// Nested too deep.
    #[error("nested deeper than 32")]
    TooDeep,
    /// The encoder refused it.
    #[error("the value can't be encoded")]
    Encode,
}

/// The DAG-CBOR of a value. Whether it is the very record is told by its CID alone.
pub fn record_from_json(value: Value) -> Result<Vec<u8>, FromJsonError> {
    let ipld = ipld(value, MAX_DEPTH)?;
    serde_ipld_dagcbor::to_vec(&ipld).map_err(|_| FromJsonError::Encode)
}

fn ipld(value: Value, depth: usize) -> Result<Ipld, FromJsonError> {
    let inner = || depth.checked_sub(1).ok_or(FromJsonError::TooDeep);
    Ok(match value {
        Value::Null => Ipld::Null,
        Value::Bool(value) => Ipld::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Ipld::Integer(number.into()),
            (_, Some(number)) => Ipld::Integer(number.into()),
            _ => return Err(FromJsonError::Number),
        },
        Value::String(text) => Ipld::String(text),
        Value::Array(items) => {
            let depth = inner()?;
            let items = items.into_iter().map(|item| ipld(item, depth));
            Ipld::List(items.collect::<Result<_, _>>()?)
        }
        Value::Object(map) => object(map, inner()?)?,
    })
}

fn object(map: Map<String, Value>, depth: usize) -> Result<Ipld, FromJsonError> {
    if map.len() == 1 {
        if let Some(link) = map.get("$link") {
            let cid = link.as_str().and_then(|text| IpldCid::try_from(text).ok());
            return cid.map(Ipld::Link).ok_or(FromJsonError::Link);
        }
        if let Some(bytes) = map.get("$bytes") {
            let text = bytes.as_str().map(|text| text.trim_end_matches('='));
            let bytes =
                text.and_then(|text| data_encoding::BASE64_NOPAD.decode(text.as_bytes()).ok());
            return bytes.map(Ipld::Bytes).ok_or(FromJsonError::Bytes);
        }
    }
    let pairs = map
        .into_iter()
        .map(|(key, value)| Ok((key, ipld(value, depth)?)));
    Ok(Ipld::Map(pairs.collect::<Result<_, FromJsonError>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::record_to_json;
    use serde_json::json;

    #[test]
    fn what_is_shown_becomes_what_was_signed() {
        let cid = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm";
        let value = json!({
            "$type": "a.b.c",
            "bb": [1, -2, 9_007_199_254_740_993_i64, null, true, "text"],
            "a": {"ref": {"$link": cid}, "raw": {"$bytes": "AAEC"}},
        });
        let bytes = record_from_json(value.clone()).unwrap();
        let mut json = Vec::new();
        assert_eq!(record_to_json(&bytes, &mut json), None);
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), value);
        super::super::cbor::check(&bytes).unwrap();
    }

    #[test]
    fn what_no_record_holds_is_refused() {
        for (value, error) in [
            (json!({"a": 1.5}), FromJsonError::Number),
            (json!({"a": {"$link": "b"}}), FromJsonError::Link),
            (json!({"a": {"$bytes": "?"}}), FromJsonError::Bytes),
        ] {
            assert_eq!(record_from_json(value), Err(error));
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(record_from_json(deep), Err(FromJsonError::TooDeep));
    }
}
