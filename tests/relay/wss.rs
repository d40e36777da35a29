//! TLS end to end, with a certificate authority of the test's own.

use std::io::Write;
use std::sync::Arc;

use futures_util::SinkExt;
use penstock::relay::{DisconnectReason, RelayError, Subscription, tls_config};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

use crate::server::{accept_http, listen};
use crate::{connect, failures, frame, options, soon};

/// A certificate authority; `sign` makes servers that it vouches for.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn file(&self) -> NamedTempFile {
        pem_file(&self.0.pem())
    }

    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
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
        TlsAcceptor::from(Arc::new(config))
    }
}

fn pem_file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Accepts TLS, as often as the client tries it.
async fn shake_hands(listener: &TcpListener, acceptor: &TlsAcceptor) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let _ = acceptor.accept(tcp).await;
    }
}

fn wss(url: &str) -> String {
    url.replace("ws://127.0.0.1", "wss://localhost")
}

#[tokio::test]
async fn frames_over_tls_with_an_authority_of_ones_own() {
    let authority = Authority::new();
    let (listener, url) = listen().await;
    let file = authority.file();
    let mut options = options(&[&wss(&url)]);
    options.tls = tls_config(Some(file.path())).unwrap();
    let mut subscription = Subscription::new(options).unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = authority.server("localhost").accept(tcp).await.unwrap();
        let mut server = tokio_tungstenite::accept_async(tls).await.unwrap();
        server
            .send(Message::binary(vec![5; 300_000]))
            .await
            .unwrap();
        server
    };
    let receiving = async {
        let connected = connect(&mut subscription).await;
        assert!(connected.relay.is_tls());
        frame(&mut subscription).await
    };
    let (received, _server) = soon(async { tokio::join!(receiving, serving) }).await;
    assert!(received == vec![5; 300_000]);
}

#[tokio::test]
async fn an_unknown_authority_is_refused_with_the_way_out() {
    let (listener, url) = listen().await;
    let acceptor = Authority::new().server("localhost");
    // Another authority in the file does not help.
    let file = Authority::new().file();
    for tls in [tls_config(None), tls_config(Some(file.path()))] {
        let mut options = options(&[&wss(&url)]);
        options.tls = tls.unwrap();
        let mut subscription = Subscription::new(options).unwrap();
        let failed = soon(async {
            tokio::select! {
                failed = failures(&mut subscription, 1) => failed,
                () = shake_hands(&listener, &acceptor) => unreachable!(),
            }
        })
        .await;
        assert_eq!(failed[0].reason, DisconnectReason::Tls, "{failed:?}");
        for word in ["localhost", "authority", "net.ca_file"] {
            assert!(failed[0].detail.contains(word), "{failed:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let (listener, url) = listen().await;
    let acceptor = authority.server("other.example");
    let mut options = options(&[&wss(&url)]);
    options.tls = tls_config(Some(authority.file().path())).unwrap();
    let mut subscription = Subscription::new(options).unwrap();
    let failed = soon(async {
        tokio::select! {
            failed = failures(&mut subscription, 1) => failed,
            () = shake_hands(&listener, &acceptor) => unreachable!(),
        }
    })
    .await;
    assert_eq!(failed[0].reason, DisconnectReason::Tls, "{failed:?}");
    assert!(failed[0].detail.contains("other.example"), "{failed:?}");
    assert!(!failed[0].detail.contains("ca_file"), "{failed:?}");
}

#[tokio::test]
async fn a_relay_without_tls_is_told_apart() {
    let (listener, url) = listen().await;
    let mut subscription = Subscription::new(options(&[&wss(&url)])).unwrap();
    let serving = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut tcp, answer)
            .await
            .unwrap();
        tcp
    };
    let (failed, _tcp) =
        soon(async { tokio::join!(failures(&mut subscription, 1), serving) }).await;
    assert_eq!(failed[0].reason, DisconnectReason::Tls, "{failed:?}");
    assert!(failed[0].detail.contains("ws://"), "{failed:?}");
}

#[tokio::test]
async fn plain_means_plain() {
    let (listener, url) = listen().await;
    let mut subscription = Subscription::new(options(&[&url])).unwrap();
    let request = soon(async {
        tokio::select! {
            (_, request) = accept_http(&listener) => request,
            _ = connect(&mut subscription) => unreachable!(),
        }
    })
    .await;
    assert!(request.starts_with("GET /xrpc/com.atproto.sync.subscribeRepos HTTP/1.1\r\n"));
}

#[test]
fn a_ca_file_that_is_no_use_is_named() {
    let empty = pem_file("no certificate here\n");
    let broken = pem_file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = std::path::Path::new("/nonexistent/ca.pem");
    for path in [empty.path(), broken.path(), missing] {
        let error = tls_config(Some(path)).unwrap_err();
        assert!(matches!(error, RelayError::CaFile { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("net.ca_file") && text.contains(path.to_str().unwrap()),
            "{text}"
        );
    }
}
