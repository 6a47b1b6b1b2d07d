//! The egress guard against a name server that changes its answers between queries, with listeners on this machine that
//! nobody may reach. Which addresses are denied is tested in pgw-core.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_core::webhook::{EndpointUrl, TransportErrorKind, WebhookRequest, WebhookTransport as _};
use pgw_http::transport::HttpTransport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::dns::{Answer, Dns};

/// Stands for a public address: the one that the policy of most tests opens. A test must not call the real ones.
const OPEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SIX: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_SIX: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

const HOST: &str = "hooks.example";

/// `egress.txt`: the URLs of one outcome, with its details.
fn corpus(outcome: &str) -> Vec<(&'static str, String)> {
    let lines = include_str!("../../../pgw-core/tests/it/egress.txt").lines();
    let lines = lines.filter(|line| line.split(' ').next() == Some(outcome));
    let case = |line: &'static str| {
        let (detail, rest) = line[outcome.len()..].trim_start().split_once(' ')?;
        let url = serde_json::Deserializer::from_str(rest).into_iter().next()?.ok()?;
        Some((detail, url))
    };
    lines.map(|line| case(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// A receiver that listens on every address of this machine, at one port, and notes at which of them it was reached.
struct Listener {
    port: u16,
    reached: Arc<Mutex<Vec<(IpAddr, SocketAddr)>>>,
    hangs_up: Arc<AtomicBool>,
}

impl Listener {
    async fn start() -> Self {
        let socket = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let reached = Arc::<Mutex<Vec<_>>>::default();
        let hangs_up = Arc::new(AtomicBool::new(false));
        let (notes, flag) = (Arc::clone(&reached), Arc::clone(&hangs_up));
        tokio::spawn(async move {
            loop {
                let (stream, peer) = socket.accept().await.unwrap();
                let at = stream.local_addr().unwrap().ip().to_canonical();
                notes.lock().unwrap().push((at, peer));
                tokio::spawn(answer(stream, Arc::clone(&flag)));
            }
        });
        Self { port, reached, hangs_up }
    }

    /// Whether each connection ends after one answer, so that the next send has to dial.
    fn hang_up(&self) {
        self.hangs_up.store(true, Ordering::SeqCst);
    }

    fn keep_alive(&self) {
        self.hangs_up.store(false, Ordering::SeqCst);
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/in", self.port)
    }

    /// At which addresses it was reached so far, and how often.
    async fn reached(&self) -> BTreeMap<IpAddr, usize> {
        // Connections are accepted in the order they were made: once this one is answered, all earlier ones are noted.
        let mut last = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
        last.write_all(BODY).await.unwrap();
        last.read_exact(&mut [0; 12]).await.unwrap();
        let last = last.local_addr().unwrap().port();
        let mut count = BTreeMap::new();
        // One to another address may have come from the same port.
        self.reached.lock().unwrap().retain(|(at, peer)| (*at, peer.port()) != (ONE, last));
        for (at, _) in &*self.reached.lock().unwrap() {
            *count.entry(*at).or_default() += 1;
        }
        count
    }
}

const BODY: &[u8] = b"{\"a\":1}";

async fn answer(mut stream: TcpStream, hangs_up: Arc<AtomicBool>) {
    let mut seen = Vec::new();
    while stream.read_buf(&mut seen).await.is_ok_and(|len| len > 0) {
        if !seen.ends_with(BODY) {
            continue;
        }
        seen.clear();
        let hangs_up = hangs_up.load(Ordering::SeqCst);
        let connection = if hangs_up { "close" } else { "keep-alive" };
        let reply =
            format!("HTTP/1.1 200 OK\r\nconnection: {connection}\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(reply.as_bytes()).await.is_err() || hangs_up {
            return;
        }
    }
}

fn opening(networks: &[&str]) -> EgressPolicy {
    let policy = EgressPolicy::default().with_http(HttpScheme::Allowed);
    let networks = networks.iter().map(|network| network.parse().unwrap());
    networks.fold(policy, EgressPolicy::with_allowed)
}

fn transport(policy: EgressPolicy, dns: &Dns) -> HttpTransport {
    HttpTransport::builder(Env::system(), policy).with_resolver(dns.resolver()).build().unwrap()
}

/// Sends a webhook; gives the status of the answer, or why there is none.
async fn send(transport: &HttpTransport, url: &str) -> Result<u16, TransportErrorKind> {
    let timeout = Duration::from_secs(60);
    send_within(transport, EndpointUrl::parse(url).expect(url), timeout).await
}

async fn send_within(
    transport: &HttpTransport,
    url: EndpointUrl,
    timeout: Duration,
) -> Result<u16, TransportErrorKind> {
    let headers = vec![(Cow::Borrowed("content-type"), "application/json".to_owned())];
    let request = WebhookRequest { url, headers, body: BODY.into(), timeout };
    transport.send(&request).await.map(|answer| answer.status).map_err(|error| error.kind)
}

fn addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Answer {
    Answer::Addresses(addresses.into_iter().collect())
}

fn public() -> Answer {
    addresses([OPEN])
}

#[tokio::test]
async fn whatever_a_name_flips_to_no_denied_address_is_reached() {
    use TransportErrorKind::{Denied, Dns as Unresolved};
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    listener.hang_up();
    dns.answers("inside.example", [addresses([ONE, SIX])]);
    dns.answers("chain.example", [Answer::Alias("inside.example")]);
    dns.answers("outside.example", [public()]);
    let many = || (1..=120).map(|last| IpAddr::from([127, 0, 1, last]));
    let flips = [
        (addresses([ONE]), Err(Denied)),
        (addresses([TWO]), Err(Denied)),
        (addresses([SIX]), Err(Denied)),
        (addresses([MAPPED]), Err(Denied)),
        (addresses([ANY]), Err(Denied)),
        (addresses([ANY_SIX]), Err(Denied)),
        (addresses([ONE, TWO, SIX, MAPPED, ANY, ANY_SIX]), Err(Denied)),
        (addresses(many()), Err(Denied)),
        (Answer::Alias("inside.example"), Err(Denied)),
        (Answer::Alias("chain.example"), Err(Denied)),
        (Answer::Alias("outside.example"), Ok(200)),
        // Denied addresses are left out of an answer; what is dialled is the rest, wherever it stands.
        (addresses([OPEN, ONE, SIX]), Ok(200)),
        (addresses([ONE, OPEN]), Ok(200)),
        (addresses([SIX, MAPPED, TWO, OPEN, ANY]), Ok(200)),
        // Of many addresses only the first few are looked at.
        (addresses([OPEN].into_iter().chain(many())), Ok(200)),
        (addresses(many().chain([OPEN])), Err(Denied)),
        (addresses([]), Err(Unresolved)),
        (Answer::Absent, Err(Unresolved)),
        (Answer::Alias("nowhere.example"), Err(Unresolved)),
    ];
    let transport = transport(opening(&["127.0.0.3/32"]), &dns);
    let url = listener.url(HOST);
    let mut answered = 0;
    for _ in 0..10 {
        for (flip, expected) in &flips {
            dns.answers(HOST, [public()]);
            assert_eq!(send(&transport, &url).await, Ok(200));
            dns.answers(HOST, [flip.clone()]);
            assert_eq!(send(&transport, &url).await, *expected, "{flip:?}");
            answered += 1 + usize::from(expected.is_ok());
        }
    }
    assert_eq!(listener.reached().await, BTreeMap::from([(OPEN, answered)]));
}

#[tokio::test]
async fn hundreds_at_once_while_the_answers_flip() {
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    dns.answers("inside.example", [addresses([TWO, SIX])]);
    let names = ["a.example", "b.example", "c.example", "d.example"];
    dns.answers(names[0], [public(), addresses([ONE])]);
    dns.answers(names[1], [addresses([SIX]), public(), addresses([ONE, TWO])]);
    dns.answers(names[2], [Answer::Alias("inside.example"), addresses([TWO, OPEN, SIX])]);
    dns.answers(names[3], [Answer::Absent, addresses([ANY, MAPPED]), public(), public()]);
    let transport = transport(opening(&["127.0.0.3/32"]), &dns);
    let mut outcomes = BTreeMap::<_, usize>::new();
    // Half of the rounds leave idle connections to the next, the other half none.
    for round in 0..4 {
        if round % 2 == 0 {
            listener.keep_alive()
        } else {
            listener.hang_up()
        }
        let mut sends = JoinSet::new();
        for name in names.iter().cycle().take(200) {
            let (transport, url) = (transport.clone(), listener.url(name));
            sends.spawn(async move { send(&transport, &url).await });
        }
        for outcome in sends.join_all().await {
            *outcomes.entry(format!("{outcome:?}")).or_default() += 1;
        }
    }
    let words: Vec<_> = outcomes.keys().map(String::as_str).collect();
    assert_eq!(words, ["Err(Denied)", "Err(Dns)", "Ok(200)"], "{outcomes:?}");
    let reached = listener.reached().await;
    assert_eq!(reached.keys().collect::<Vec<_>>(), [&OPEN], "{reached:?}");
}

#[tokio::test]
async fn an_idle_connection_still_leads_where_it_was_checked() {
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    let transport = transport(opening(&["127.0.0.3/32"]), &dns);
    let url = listener.url(HOST);
    dns.answers(HOST, [public()]);
    assert_eq!(send(&transport, &url).await, Ok(200));
    let queries = dns.queries();
    dns.answers(HOST, [addresses([ONE]), addresses([SIX])]);
    for _ in 0..200 {
        assert_eq!(send(&transport, &url).await, Ok(200));
    }
    assert_eq!(dns.queries(), queries, "somebody dialled");
    // All of these but one find no idle connection, and dial.
    let mut sends = JoinSet::new();
    for _ in 0..100 {
        let (transport, url) = (transport.clone(), url.clone());
        sends.spawn(async move { send(&transport, &url).await });
    }
    for outcome in sends.join_all().await {
        assert!(matches!(outcome, Ok(200) | Err(TransportErrorKind::Denied)), "{outcome:?}");
    }
    listener.hang_up();
    assert_eq!(send(&transport, &url).await, Ok(200));
    for _ in 0..100 {
        assert_eq!(send(&transport, &url).await, Err(TransportErrorKind::Denied));
    }
    assert_eq!(listener.reached().await, BTreeMap::from([(OPEN, 1)]));
}

#[tokio::test]
async fn a_name_server_that_falls_silent() {
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    let transport = transport(opening(&["127.0.0.3/32"]), &dns);
    let url = EndpointUrl::parse(&listener.url(HOST)).unwrap();
    dns.answers(HOST, [Answer::Silence]);
    let outcome = send_within(&transport, url.clone(), Duration::from_millis(100)).await;
    assert_eq!(outcome, Err(TransportErrorKind::Timeout));
    dns.answers(HOST, [addresses([ONE])]);
    assert_eq!(send(&transport, url.as_str()).await, Err(TransportErrorKind::Denied));
    assert_eq!(listener.reached().await, BTreeMap::new());
}

#[tokio::test]
async fn a_dial_that_fails_does_not_fall_back_to_a_denied_address() {
    let dns = Dns::start().await;
    let denied = std::net::TcpListener::bind((ONE, 0)).unwrap();
    denied.set_nonblocking(true).unwrap();
    let transport = transport(opening(&["127.0.0.3/32"]), &dns);
    let url = format!("http://{HOST}:{}/", denied.local_addr().unwrap().port());
    for both in [[OPEN, ONE], [ONE, OPEN]] {
        dns.answers(HOST, [addresses(both)]);
        assert_eq!(send(&transport, &url).await, Err(TransportErrorKind::Connect));
    }
    assert_eq!(denied.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_hole_lets_through_what_it_names_and_nothing_else() {
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    listener.hang_up();
    let url = listener.url(HOST);
    let mut reached = BTreeMap::<_, usize>::new();
    for (hole, answer, at) in [
        ("127.0.0.1/32", vec![ONE], Some(ONE)),
        ("127.0.0.2/32", vec![TWO], Some(TWO)),
        ("::1/128", vec![SIX], Some(SIX)),
        ("::1/128", vec![ONE, SIX], Some(SIX)),
        ("127.0.0.2/32", vec![ONE, TWO], Some(TWO)),
        ("127.0.0.2/32", vec![ONE], None),
        ("127.0.0.2/32", vec![SIX], None),
        ("127.0.0.1/32", vec![SIX, MAPPED], None),
        ("::1/128", vec![ONE, TWO, MAPPED], None),
        ("10.0.0.0/8", vec![ONE, TWO, SIX], None),
    ] {
        dns.answers(HOST, [addresses(answer.clone())]);
        let outcome = send(&transport(opening(&[hole]), &dns), &url).await;
        let expected = if at.is_some() { Ok(200) } else { Err(TransportErrorKind::Denied) };
        assert_eq!(outcome, expected, "{hole}: {answer:?}");
        if let Some(at) = at {
            *reached.entry(at).or_default() += 1;
        }
        assert_eq!(listener.reached().await, reached, "{hole}: {answer:?}");
    }
}

#[tokio::test]
async fn the_corpus_reaches_nobody() {
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    let transport = transport(EgressPolicy::default(), &dns);
    let at_listener = |text: &str| {
        let mut url = EndpointUrl::parse(text).unwrap().url().clone();
        url.set_port(Some(listener.port)).unwrap();
        url
    };
    let mut literals = Vec::new();
    for (detail, text) in corpus("denied") {
        let mut url = at_listener(&text);
        if detail == "port" {
            url = EndpointUrl::parse(&text).unwrap().url().clone();
        }
        let outcome = send(&transport, url.as_str()).await;
        assert_eq!(outcome, Err(TransportErrorKind::Denied), "{text:?}");
        let host = url.host_str().unwrap().trim_matches(['[', ']']).parse::<IpAddr>();
        literals.extend(host.ok().filter(|_| !matches!(detail, "scheme" | "port")));
    }
    assert!(literals.len() >= 200, "{}", literals.len());
    // What is denied in a URL is denied in the answer for a name.
    let url = format!("https://{HOST}:{}/", listener.port);
    for literal in literals {
        dns.answers(HOST, [addresses([literal])]);
        let outcome = send(&transport, &url).await;
        assert_eq!(outcome, Err(TransportErrorKind::Denied), "{literal}");
    }
    for (name, text) in corpus("name") {
        dns.answers(name, [addresses([ONE, SIX])]);
        // There is nobody to ask for these (RFC 6761 §6.4, RFC 7686 §2): a resolver that knows it says so by itself.
        let nowhere = name.ends_with(".invalid") || name.ends_with(".onion");
        let expected = if nowhere { TransportErrorKind::Dns } else { TransportErrorKind::Denied };
        let outcome = send(&transport, at_listener(&text).as_str()).await;
        assert_eq!(outcome, Err(expected), "{text:?}");
    }
    assert_eq!(listener.reached().await, BTreeMap::new());
}

#[cfg(feature = "router")]
#[tokio::test]
async fn endpoints_are_checked_when_they_are_created_and_when_they_change() {
    use axum::http::StatusCode;
    use pgw_core::access::Role;
    use pgw_core::gateway::Gateway;
    use pgw_core::scope::Scope;
    use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

    use crate::harness::{App, new_key};

    let dns = Dns::start().await;
    let gateway = Gateway::builder()
        .with_storage(Arc::new(MemoryStorage::new()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .with_transport(
            Arc::new(transport(EgressPolicy::default(), &dns)),
            KeyRing::ephemeral(&Env::system()),
        )
        .build()
        .unwrap();
    let router = pgw_http::router(gateway.clone(), pgw_http::Config::default());
    let key = new_key(&gateway, Scope::default(), Role::Admin).await;
    let app = App::new().await;
    let body = |url: &str| serde_json::json!({ "url": url }).to_string();
    let post = |url: &str| app.post("/webhook-endpoints", body(url)).with("x-api-key", &key);
    let created = post("https://hooks.example.com/in").of(router.clone()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let path = format!("/webhook-endpoints/{}", created.text("id"));
    let list = || app.get("/webhook-endpoints").with("x-api-key", &key).of(router.clone());
    let before = list().await.json();
    assert_eq!(before["data"].as_array().map(Vec::len), Some(1), "{before}");
    for outcome in ["denied", "refused-url"] {
        for (detail, url) in corpus(outcome) {
            let code = match (outcome, detail) {
                ("refused-url", _) => "invalid_url",
                (_, "scheme") => "scheme_denied",
                (_, "port") => "port_denied",
                (_, "host-name") => "host_name_denied",
                _ => "address_denied",
            };
            let patch = app.patch(&path, body(&url)).with("x-api-key", &key);
            for ask in [post(&url), patch] {
                let reply = ask.of(router.clone()).await;
                let errors = reply.problem(400, "Validation failed");
                let expected = ("url".to_owned(), "body".to_owned(), code.to_owned());
                assert_eq!(errors, [expected], "{url:?}");
            }
        }
    }
    assert_eq!(list().await.json(), before);
    assert_eq!(dns.queries(), 0, "an address is checked without asking anybody about it");
    // And those that pass do pass.
    let changed = app.patch(&path, body("https://8.8.8.8/in")).with("x-api-key", &key);
    assert_eq!(changed.of(router.clone()).await.status, StatusCode::OK);
    assert_eq!(list().await.json()["data"][0]["url"], "https://8.8.8.8/in");
}
