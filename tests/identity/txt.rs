//! Handles that the DNS confirms, or not: what a nameserver says, and when the handle's host is asked as well.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use penstock::identity::{Dns, HandleError, Identities};

use crate::DID;
use crate::directory::Directory;
use crate::dns::{Nameserver, Says};
use crate::handle::{directory, identities, listen, serve};

const HANDLE: &str = "alice.example.com";
const NAME: &str = "_atproto.alice.example.com.";

/// Identities for whom no host of a handle may be asked: all are at a private address.
fn by_dns_alone(directory: &Directory, dns: Dns) -> Identities {
    identities(directory, Ipv4Addr::LOCALHOST, None, dns)
}

#[tokio::test]
async fn a_txt_record_is_enough() {
    let directory = directory(HANDLE).await;
    let record = format!("did={DID}");
    let nameserver = Nameserver::with(&[(NAME, &["v=spf1 -all", &record, &record])]).await;
    let identities = by_dns_alone(&directory, nameserver.dns());
    for handle in [HANDLE, "ALICE.Example.com"] {
        assert_eq!(identities.did_of(handle).await.unwrap(), DID);
    }
    assert_eq!(nameserver.asked(), [NAME, NAME], "each time, in lower case");
}

#[tokio::test]
async fn a_record_in_pieces_is_put_together() {
    let directory = directory(HANDLE).await;
    let (start, end) = DID.split_at(9);
    let pieces = vec![format!("did={start}"), end.to_owned()];
    let texts = BTreeMap::from([(NAME.to_owned(), vec![pieces])]);
    let nameserver = Nameserver::start(Says::Texts(texts)).await;
    let identities = by_dns_alone(&directory, nameserver.dns());
    assert_eq!(identities.did_of(HANDLE).await.unwrap(), DID);
}

#[tokio::test]
async fn several_dids_are_not_believed() {
    let directory = directory(HANDLE).await;
    let records = [&format!("did={DID}"), "did=did:web:b.example.com"];
    let nameserver = Nameserver::with(&[(NAME, &records)]).await;
    let identities = by_dns_alone(&directory, nameserver.dns());
    let several = identities.did_of(HANDLE).await.unwrap_err();
    assert!(matches!(several, HandleError::Several(..)), "{several}");
    assert!(several.to_string().contains(DID), "{several}");
    assert_eq!(directory.asked_in_all(), 0);
}

#[tokio::test]
async fn what_the_document_does_not_confirm_is_not_believed() {
    let directory = directory("mallory.example.com").await;
    let record = format!("did={DID}");
    let nameserver = Nameserver::with(&[(NAME, &[&record])]).await;
    let identities = by_dns_alone(&directory, nameserver.dns());
    let other = identities.did_of(HANDLE).await.unwrap_err();
    assert!(matches!(other, HandleError::OneSided { .. }), "{other}");
}

#[tokio::test]
async fn names_that_no_handle_has_are_not_asked_for() {
    let directory = directory(HANDLE).await;
    let nameserver = Nameserver::with(&[]).await;
    let identities = by_dns_alone(&directory, nameserver.dns());
    for handle in ["handle.invalid", "host.LOCAL", "db.internal", "a.onion"] {
        let refused = identities.did_of(handle).await.unwrap_err();
        assert!(matches!(refused, HandleError::Reserved(..)), "{refused}");
    }
    assert!(nameserver.asked().is_empty());
}

#[tokio::test]
async fn both_ways_are_named_where_neither_works() {
    let directory = directory(HANDLE).await;
    let none = Dns {
        nameservers: Some(Vec::new()),
        ..Dns::default()
    };
    let cut: &[u8] = &[0, 1, 0x81, 0x80, 0, 1, 0xff];
    for (says, expected) in [
        (Some(Says::Texts(BTreeMap::new())), "no TXT record"),
        (Some(Says::Failure), "no answer of a nameserver"),
        (Some(Says::Bytes(cut)), "none within 100ms"),
        (Some(Says::Nothing), "none within 100ms"),
        (None, "no answer of a nameserver (no connections available)"),
    ] {
        let nameserver = match says {
            Some(says) => Some(Nameserver::start(says).await),
            None => None,
        };
        let dns = nameserver.as_ref().map_or(none.clone(), Nameserver::dns);
        let identities = by_dns_alone(&directory, dns);
        let unnamed = identities.did_of(HANDLE).await.unwrap_err().to_string();
        for part in [
            expected,
            "_atproto.alice.example.com",
            "https://alice.example.com/.well-known/atproto-did",
            "no public address",
            "give the DID itself",
        ] {
            assert!(unnamed.contains(part), "{part}: {unnamed}");
        }
    }
}

#[tokio::test]
async fn the_host_is_asked_where_the_dns_names_none() {
    let place = Ipv4Addr::new(127, 78, 2, 2);
    let test = "the_host_is_asked_where_the_dns_names_none";
    let Some(listener) = listen(place, test).await else {
        return;
    };
    let authority = serve(listener, BTreeMap::from([(HANDLE, DID.to_owned())]));
    let directory = directory(HANDLE).await;
    for says in [
        Says::Texts(BTreeMap::from([(
            NAME.to_owned(),
            vec![vec!["x".to_owned()]],
        )])),
        Says::Texts(BTreeMap::new()),
        Says::Failure,
        Says::Nothing,
    ] {
        let nameserver = Nameserver::start(says).await;
        let identities = identities(&directory, place, Some(&authority), nameserver.dns());
        assert_eq!(identities.did_of(HANDLE).await.unwrap(), DID);
        assert!(!nameserver.asked().is_empty());
    }
}

#[tokio::test]
async fn the_dns_comes_before_the_host() {
    let place = Ipv4Addr::new(127, 78, 2, 3);
    let test = "the_dns_comes_before_the_host";
    let Some(listener) = listen(place, test).await else {
        return;
    };
    let other = "did:web:b.example.com".to_owned();
    let authority = serve(listener, BTreeMap::from([(HANDLE, other)]));
    let directory = directory(HANDLE).await;
    let record = format!("did={DID}");
    let nameserver = Nameserver::with(&[(NAME, &[&record])]).await;
    let identities = identities(&directory, place, Some(&authority), nameserver.dns());
    assert_eq!(identities.did_of(HANDLE).await.unwrap(), DID);
}
