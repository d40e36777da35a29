//! Handles that the DNS does not confirm: what their hosts say, over TLS, and what the DID's document says of it.
//!
//! Hosts of handles are at port 443, which needs root or the like: without it the test says that it is skipped (with `CI=true` it
//! fails).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock::clock::SystemClock;
use penstock::fetch::{FetchOptions, Fetcher, Resolver};
use penstock::identity::{Dns, HandleError, HostError, Identities, IdentityOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::DID;
use crate::directory::Directory;

/// As on a system that names no nameserver.
const NO_DNS: Dns = Dns {
    nameservers: Some(Vec::new()),
    limit: Duration::from_secs(5),
};

/// Where every name leads.
struct Everywhere(IpAddr);

#[async_trait]
impl Resolver for Everywhere {
    async fn lookup(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![self.0])
    }
}

/// Identities for whom every host is at `place`.
pub fn identities(
    directory: &Directory,
    place: Ipv4Addr,
    authority: Option<&NamedTempFile>,
    dns: Dns,
) -> Identities {
    let options = FetchOptions {
        allow_private: authority.is_some(),
        ca_file: authority.map(|file| file.path().to_owned()),
        allowed_origins: vec![directory.url()],
        ..FetchOptions::default()
    };
    let resolver = Arc::new(Everywhere(place.into()));
    let fetcher = Fetcher::with_resolver(&options, resolver).unwrap();
    let options = IdentityOptions {
        plc_url: directory.url(),
        dns,
        ..IdentityOptions::default()
    };
    Identities::new(fetcher, &options, Arc::new(SystemClock))
}

/// A directory in which the DID is of this handle.
pub async fn directory(handle: &str) -> Directory {
    let directory = Directory::start().await;
    let document = json!({"id": DID, "alsoKnownAs": [format!("at://{handle}")]});
    directory.put(DID, 200, document.to_string());
    directory
}

/// Port 443 of a loopback address, for one test.
pub async fn listen(place: Ipv4Addr, test: &str) -> Option<TcpListener> {
    let listener = TcpListener::bind((place, 443)).await.ok();
    if listener.is_none() {
        let message = format!("SKIPPED {test}: port 443 needs root\n");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        // Around the harness, which hides what passing tests print.
        let _ = io::stderr().write_all(message.as_bytes());
    }
    listener
}

/// What the host said of a handle that names no DID.
fn of_host(error: &HandleError) -> &HostError {
    match error {
        HandleError::Unnamed { https, .. } => https,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_handle_is_believed_where_both_sides_say_it() {
    let place = Ipv4Addr::new(127, 78, 2, 1);
    let test = "a_handle_is_believed_where_both_sides_say_it";
    let Some(listener) = listen(place, test).await else {
        return;
    };
    let says = BTreeMap::from([
        ("alice.example.com", format!("{DID}\n")),
        ("mallory.example.com", DID.to_owned()),
        ("page.example.com", "<!doctype html>".to_owned()),
        ("long.example.com", "x".repeat(5_000)),
    ]);
    let authority = serve(listener, says);
    let directory = directory("Alice.example.com").await;
    let identities = identities(&directory, place, Some(&authority), NO_DNS);

    for handle in ["alice.example.com", "ALICE.Example.com"] {
        assert_eq!(identities.did_of(handle).await.unwrap(), DID);
    }
    let other = identities.did_of("mallory.example.com").await.unwrap_err();
    assert!(matches!(other, HandleError::OneSided { .. }), "{other}");
    let page = identities.did_of("page.example.com").await.unwrap_err();
    assert!(matches!(of_host(&page), HostError::NoDid), "{page}");
    for handle in ["nobody.example.com", "long.example.com"] {
        let silent = identities.did_of(handle).await.unwrap_err();
        assert!(
            matches!(of_host(&silent), HostError::NoAnswer(_)),
            "{silent}"
        );
    }
    directory.put(DID, 404, String::new());
    let gone = identities.did_of("alice.example.com").await.unwrap_err();
    assert!(matches!(gone, HandleError::Identity(_)), "{gone}");
}

#[tokio::test]
async fn a_handle_leads_to_no_private_address() {
    let directory = directory("alice.example.com").await;
    for place in [[127, 0, 0, 1], [169, 254, 169, 254], [10, 0, 0, 1]] {
        let identities = identities(&directory, place.into(), None, NO_DNS);
        let refused = identities.did_of("alice.example.com").await.unwrap_err();
        assert!(
            refused.to_string().contains("no public address"),
            "{refused}"
        );
    }
    assert_eq!(directory.asked_in_all(), 0);
}

/// Serves what each host says, and gives the authority that vouches for all of them.
pub fn serve(listener: TcpListener, says: BTreeMap<&'static str, String>) -> NamedTempFile {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(authority.pem().as_bytes()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["*.example.com".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                let mut stream = BufReader::new(stream);
                let (mut head, mut host) = (String::new(), String::new());
                while stream.read_line(&mut head).await.is_ok_and(|read| read > 2) {
                    let line = head.lines().last().unwrap_or_default().to_lowercase();
                    if let Some(named) = line.strip_prefix("host: ") {
                        named.clone_into(&mut host);
                    }
                }
                let right = head.starts_with("GET /.well-known/atproto-did ");
                let answer = match says.get(host.as_str()).filter(|_| right) {
                    Some(body) => format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    ),
                    None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    file
}
