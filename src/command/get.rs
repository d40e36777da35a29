//! `penstock get`: one record as JSON.

use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::source::{Source, garbled, stdout};
use super::{Exit, Failure, GetArgs};
use crate::api::client::Client;
use crate::config::Config;
use crate::decode::syntax;

/// Prints the record; exit 1 if it is not held.
pub(super) async fn run(config: Config, args: GetArgs) -> Result<Exit, Failure> {
    let uri = RecordUri::parse(&args.uri)?;
    let source = Source::open(&config).await?;
    let end = print_record(source.client(), &uri).await;
    source.close(end).await
}

/// `at://DID/COLLECTION/RKEY`
struct RecordUri<'a> {
    text: &'a str,
    did: &'a str,
    collection: &'a str,
    rkey: &'a str,
}

impl<'a> RecordUri<'a> {
    fn parse(text: &'a str) -> Result<Self, Failure> {
        let mistake = |what: &str| {
            let message = format!("{text:?}: {what}; wanted is at://DID/COLLECTION/RKEY");
            Failure::new(Exit::Failed, message)
        };
        let path = text
            .strip_prefix("at://")
            .ok_or_else(|| mistake("not an at:// URI"))?;
        let mut parts = path.split('/');
        let (Some(did), Some(collection), Some(rkey), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(mistake("not the URI of one record"));
        };
        match (did, collection, rkey) {
            (did, ..) if syntax::is_handle(did) => Err(mistake("handles are not resolved here")),
            (did, ..) if !syntax::is_did(did) => Err(mistake("the DID is none")),
            (_, nsid, _) if !syntax::is_nsid(nsid) => Err(mistake("the collection is no NSID")),
            (.., rkey) if !syntax::is_rkey(rkey) => Err(mistake("the record key is none")),
            _ => Ok(Self {
                text,
                did,
                collection,
                rkey,
            }),
        }
    }
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow)]
    records: Vec<Row<'a>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    cid: &'a str,
    rev: &'a str,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Serialize)]
struct Shown<'a> {
    uri: &'a str,
    cid: &'a str,
    rev: &'a str,
    value: &'a RawValue,
}

async fn print_record(client: &Client, uri: &RecordUri<'_>) -> Result<Exit, Failure> {
    let query = [
        ("did", uri.did),
        ("collection", uri.collection),
        ("rkey", uri.rkey),
    ];
    let answer = client.get("/admin/records", &query).await?;
    let found: Found<'_> = serde_json::from_slice(&answer).map_err(garbled)?;
    let hidden = why_hidden(client, uri.did).await?;
    let Some(row) = found.records.first() else {
        let account = hidden.map(|why| format!("; {why}")).unwrap_or_default();
        let message = format!("{} is not held{account}", uri.text);
        return Err(Failure::new(Exit::Failed, message));
    };
    let shown = Shown {
        uri: uri.text,
        cid: row.cid,
        rev: row.rev,
        value: row.value,
    };
    let mut out = stdout();
    serde_json::to_writer(&mut out, &shown).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    if let Some(why) = hidden {
        // The record is printed; nothing is lost if nobody reads this.
        let _ = writeln!(
            std::io::stderr(),
            "penstock: {why}: readers don't see this record"
        );
    }
    Ok(Exit::Done)
}

#[derive(Deserialize)]
struct Repos {
    repos: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    active: bool,
    status: Option<String>,
}

async fn why_hidden(client: &Client, did: &str) -> Result<Option<String>, Failure> {
    let answer = client.get("/admin/repos", &[("did", did)]).await?;
    let found: Repos = serde_json::from_slice(&answer).map_err(garbled)?;
    let account = found.repos.into_iter().find(|account| !account.active);
    Ok(account.map(|account| {
        let status = account.status.unwrap_or_else(|| "no reason given".into());
        format!("the account is not active ({status})")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_uri_of_one_record_is_taken() {
        let uri = RecordUri::parse("at://did:plc:abc/app.bsky.feed.post/3k").unwrap();
        assert_eq!(
            (uri.did, uri.collection, uri.rkey),
            ("did:plc:abc", "app.bsky.feed.post", "3k")
        );
        for (text, says) in [
            ("did:plc:abc/app.bsky.feed.post/3k", "not an at:// URI"),
            ("at://did:plc:abc", "one record"),
            ("at://did:plc:abc/app.bsky.feed.post/3k/", "one record"),
            ("at://alice.test/app.bsky.feed.post/3k", "handles"),
            ("at://did:plc/app.bsky.feed.post/3k", "DID"),
            ("at://did:plc:abc/post/3k", "NSID"),
            ("at://did:plc:abc/app.bsky.feed.post/..", "record key"),
        ] {
            let failure = RecordUri::parse(text).err().unwrap();
            assert!(failure.to_string().contains(says), "{text}: {failure}");
        }
    }
}
