//! TLS: a server whose certificate a CA of its own has signed.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use super::antiphon;
use super::responder::{Manner, Responder};

/// A certificate for `localhost` with its key, and the CA that signed it, as PEM.
fn certificates() -> (CertificateDer<'static>, PrivateKeyDer<'static>, String) {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = key();
    let signed = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(authority, authority_key);
    let server_key = key();
    let names = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = names.signed_by(&server_key, &issuer).expect("a certificate");
    (certificate.der().clone(), server_key.serialize_der().try_into().expect("a key"), signed.pem())
}

/// TLS before a server; it lives as long as the process.
fn before(server: SocketAddr, certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> u16 {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (sender, port) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("an address").port()).expect("the test waits");
            loop {
                let (outside, _) = listener.accept().await.expect("a connection");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust us leaves in the handshake.
                    let mut outside = acceptor.accept(outside).await.ok()?;
                    let mut inside = TcpStream::connect(server).await.ok()?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.ok()
                });
            }
        });
    });
    port.recv().expect("it starts")
}

#[test]
fn a_server_is_trusted_for_the_certificates_of_a_file_and_for_no_others() {
    let responder = Responder::start(Manner::default());
    let (certificate, key, authority) = certificates();
    let port = before(responder.address(), certificate, key);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().expect("UTF-8").to_owned()
    };
    let (ours, others, none) = (path("ca.pem", &authority), path("other.pem", &certificates().2), path("none.pem", "none\n"));
    let load = |host: &str, trusted: &[&str]| {
        let url = format!("https://{host}:{port}");
        antiphon(&[&["load", "--url", &url, "--requests", "5", "--output-tokens", "4"][..], trusted].concat())
    };
    let (code, output, error) = load("localhost", &["--ca-file", &ours]);
    assert_eq!((code, error.as_str()), (0, ""), "{output}");
    assert!(output.contains("5 sent, 5 completed"), "{output}");
    for (host, trusted, said) in [
        ("localhost", &[][..], "invalid peer certificate: UnknownIssuer"),
        ("localhost", &["--ca-file", &others], "invalid peer certificate: "),
        // Signed by the right authority, for another name.
        ("127.0.0.1", &["--ca-file", &ours], "invalid peer certificate: certificate not valid for name"),
    ] {
        let (code, _, error) = load(host, trusted);
        assert!(code == 1 && error.contains("is not reachable") && error.contains(said), "{host} {trusted:?}: {error}");
    }
    let (code, _, error) = load("localhost", &["--ca-file", &none]);
    assert!(code == 2 && error.contains("none.pem: it holds no certificate; expected certificates in PEM form"), "{error}");
}
