//! TLS: both versions of HTTP, and a certificate that is replaced.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pgw_http::serve::{Certificate, CertificateError, Server};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Running, last, rest, send, status};

struct Pem {
    chain: String,
    key: String,
    root: CertificateDer<'static>,
}

fn pem() -> Pem {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["pay.example".to_owned()]).unwrap();
    Pem { chain: cert.pem(), key: signing_key.serialize_pem(), root: cert.der().clone() }
}

async fn handshake(
    running: &Running,
    root: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("pay.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, running.connect().await).await
}

async fn start(server: Server) -> (Running, Certificate, Pem) {
    let pem = pem();
    let certificate = Certificate::from_pem(pem.chain.as_bytes(), pem.key.as_bytes()).unwrap();
    let running = Running::start(server.with_certificate(certificate.clone())).await;
    (running, certificate, pem)
}

#[tokio::test]
async fn http_1_over_tls_and_a_new_certificate() {
    let (running, certificate, old) = start(Server::new()).await;
    let mut stream = handshake(&running, &old.root, b"http/1.1").await.unwrap();
    send(&mut stream, &last("/livez")).await;
    assert_eq!(status(&rest(&mut stream).await), "200");

    let new = pem();
    certificate.reload(new.chain.as_bytes(), new.key.as_bytes()).unwrap();
    assert!(handshake(&running, &old.root, b"http/1.1").await.is_err());
    assert!(handshake(&running, &new.root, b"http/1.1").await.is_ok());

    let other = pem();
    let mismatch = certificate.reload(other.chain.as_bytes(), new.key.as_bytes());
    assert!(matches!(mismatch, Err(CertificateError::Mismatch(_))));
    assert!(matches!(certificate.reload(b"", b""), Err(CertificateError::Chain)));
    let no_key = certificate.reload(other.chain.as_bytes(), b"no key");
    assert!(matches!(no_key, Err(CertificateError::Key)));
    assert!(handshake(&running, &new.root, b"http/1.1").await.is_ok(), "the old one stays");
    assert_eq!(format!("{certificate:?}"), "Certificate(…)");
}

#[tokio::test]
async fn http_2_over_tls_drains_too() {
    let (running, _, pem) = start(Server::new()).await;
    let stream = handshake(&running, &pem.root, b"h2").await.unwrap();
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| {
        Request::get(format!("https://pay.example{path}")).body(Body::empty()).unwrap()
    };
    let answer = client.send_request(ask("/livez")).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let waiting = client.send_request(ask("/wait"));
    let waiting = tokio::spawn(waiting);
    running.waiting.acquire().await.unwrap().forget();
    running.drain.begin();
    running.gate.add_permits(1);
    let body = waiting.await.unwrap().unwrap().into_body();
    let body = axum::body::to_bytes(Body::new(body), 100).await.unwrap();
    assert_eq!(&body[..], b"done");
    connection.await.unwrap().unwrap();
    assert_eq!(running.drained().await.cut_off, 0);
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    let server = Server::new().with_write_timeout(Duration::from_millis(200));
    let (running, _, pem) = start(server).await;
    let stream = handshake(&running, &pem.root, b"h2").await.unwrap();
    // It reads the socket and answers pings, and there is never room for the body of an answer.
    let (mut client, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let ask = || Request::get("https://pay.example/livez").body(Body::empty()).unwrap();
    // More at once than there may be: those given up make room.
    let asked = (0..150).map(|_| client.send_request(ask()));
    for answer in futures_util::future::join_all(asked).await {
        let body = Body::new(answer.unwrap().into_body());
        let error = axum::body::to_bytes(body, 100).await.unwrap_err();
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    }
    drop(client);
    connection.await.unwrap().unwrap();
    assert_eq!(running.drained().await.cut_off, 0);
}

#[tokio::test]
async fn large_answers_over_http_2_come_whole() {
    let (running, _, pem) = start(Server::new()).await;
    let stream = handshake(&running, &pem.root, b"h2").await.unwrap();
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let echo = Request::post("https://pay.example/echo").body(Body::from(sent.clone())).unwrap();
    let answer = client.send_request(echo).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "300000");
    let body = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
    assert!(body == sent);
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_in_and_after_the_handshake_is_cut_off() {
    let server = Server::new()
        .with_handshake_timeout(Duration::from_secs(1))
        .with_idle_timeout(Duration::from_millis(100));
    let (running, _, pem) = start(server).await;
    let mut silent = running.connect().await;
    assert_eq!(rest(&mut silent).await, "");
    // Not even the preface of HTTP/2 comes.
    let mut stream = handshake(&running, &pem.root, b"h2").await.unwrap();
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    assert_eq!(running.drained().await.cut_off, 0);
}
