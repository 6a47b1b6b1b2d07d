//! A real payment, from API call to verified webhook, in one process with nothing installed.
//!
//! `cargo run --example quickstart` shows a timeline and then serves on, with curl lines to try; `-- --exit` ends after
//! the timeline. `-- --port N` listens elsewhere than on 8080.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use pgw_core::access::Role;
use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::gateway::{Gateway, NewApiKey};
use pgw_core::text::Description;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_core::worker::Worker;
use pgw_http::transport::HttpTransport;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_webhook_client::StandardVerifier;
use pgw_webhook_client::axum::VerifiedWebhook;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Fallible<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Fallible<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let env = Env::system();
    // Webhooks may go to this machine: only because this is a demonstration.
    let policy =
        EgressPolicy::default().with_http(HttpScheme::Allowed).with_allowed("127.0.0.0/8".parse()?);
    let gateway = Gateway::builder()
        .with_storage(Arc::new(MemoryStorage::new()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .with_transport(
            Arc::new(HttpTransport::new(env.clone(), policy)?),
            KeyRing::ephemeral(&env),
        )
        .with_env(env.clone())
        .build()?;
    let worker = Worker::new(&gateway).start();

    let name = Description::parse("quickstart")?;
    let new_key = NewApiKey { role: Role::Admin, name, expires_in: None };
    let (_, key) = gateway.host().create_api_key(new_key).await?;
    let key = key.expose().to_owned();

    let api = serve_api(&gateway, options.port).await?;
    let mut shop = Shop::new(env, api, key.clone());
    let result = shop.tell().await;
    if result.is_ok() && !options.exit {
        curl_lines(api, &key, &shop.payment);
        tokio::select! {
            stop = tokio::signal::ctrl_c() => stop?,
            () = shop.listen() => {}
        }
        println!("\nstopping: finishing what is under way");
    }
    let report = worker.shutdown().await;
    println!("worker: {} jobs done, {} returned", report.done, report.returned);
    result
}

struct Options {
    exit: bool,
    port: u16,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Fallible<Self> {
        let mut options = Self { exit: false, port: 8080 };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exit" => options.exit = true,
                "--port" => {
                    let port = args.next().unwrap_or_default().parse();
                    options.port = port.map_err(|_| "--port wants a number from 0 to 65535")?;
                }
                _ => return Err("the options are --exit and --port N".into()),
            }
        }
        // Whoever only watches the timeline has no use for a fixed port, and it may be taken.
        if options.exit && options.port == 8080 {
            options.port = 0;
        }
        Ok(options)
    }
}

async fn serve_api(gateway: &Gateway, port: u16) -> Fallible<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        format!("cannot listen on port {port} ({error}); choose another with `-- --port 8090`")
    })?;
    let address = listener.local_addr()?;
    let config = pgw_http::Config::default().with_public_base_url(&format!("http://{address}/api"));
    let app = Router::new().nest("/api", pgw_http::router(gateway.clone(), config));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// The merchant's side: a client of the API and a receiver of webhooks.
struct Shop {
    env: Env,
    http: Client,
    api: String,
    key: String,
    payment: String,
    heard: Option<mpsc::UnboundedReceiver<(Timestamp, Value)>>,
    /// Webhooks that came before their turn, and whose turn it is.
    early: BTreeMap<u64, (Timestamp, Value)>,
    next: u64,
}

impl Shop {
    fn new(env: Env, api: SocketAddr, key: String) -> Self {
        // An application may choose the process's TLS provider; a library must not, so pgw-http brings its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().build().expect("the provider is installed above");
        let api = format!("http://{api}/api");
        let (payment, early) = (String::new(), BTreeMap::new());
        Self { env, http, api, key, payment, heard: None, early, next: 1 }
    }

    /// The whole story, line by line as it happens.
    async fn tell(&mut self) -> Fallible<()> {
        println!("{:<15} {:<9} what happens", "time (UTC)", "who");
        self.receive_webhooks().await?;
        let order = json!({
            "amount": 49.99, "currency": "USD", "payment_method": "tok_visa",
            "customer_email": "ada@example.com", "customer_name": "Ada Lovelace",
        });
        let first = self.post("/payments", &order, Some("order-1001")).await?.text().await?;
        let payment: Value = serde_json::from_str(&first)?;
        self.payment = text(&payment, "id");
        self.say("shop", &format!("creates {}: {}", self.payment, amount(&payment)));

        let again = self.post("/payments", &order, Some("order-1001")).await?;
        let replayed = again.headers().contains_key("idempotent-replayed");
        if !replayed || again.text().await? != first {
            return Err("the repeated request was not replayed byte for byte".into());
        }
        self.say("shop", "repeats the request: same key, same bytes, no second payment");
        self.hear_until("payment.succeeded").await?;

        let path = format!("/payments/{}/refunds", self.payment);
        let part = json!({"amount": "20.00", "reason": "one of two items returned"});
        let refund: Value = self.post(&path, &part, Some("refund-1001")).await?.json().await?;
        let line = format!("refunds part: {}, {}", amount(&refund), text(&refund, "status"));
        self.say("shop", &line);
        self.hear_until("refund.succeeded").await?;

        let path = format!("{}/payments/{}", self.api, self.payment);
        let paid: Value =
            self.http.get(path).header("x-api-key", &self.key).send().await?.json().await?;
        let (status, taken) = (text(&paid, "status"), &paid["captured_minor"]);
        let (back, left) = (&paid["refunded_minor"], &paid["refundable_minor"]);
        let line =
            format!("{status}: {taken} captured, {back} refunded, {left} left (minor units)");
        self.say("shop", &line);
        Ok(())
    }

    /// Creates an endpoint and serves it: each webhook is verified on its raw body before anything looks at it.
    async fn receive_webhooks(&mut self) -> Fallible<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/webhooks", listener.local_addr()?);
        let created: Value =
            self.post("/webhook-endpoints", &json!({"url": url}), None).await?.json().await?;
        let verifier = StandardVerifier::new(&text(&created, "secret"))?;
        let (tell, heard) = mpsc::unbounded_channel();
        self.heard = Some(heard);
        self.say("shop", &format!("registers {} for {url}", text(&created, "id")));
        let receiver = Receiver { verifier, env: self.env.clone(), tell };
        let app = Router::new().route("/webhooks", post(receive)).with_state(receiver);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(())
    }

    /// Tells what was heard, in order of `sequence`: webhooks may overtake one another.
    async fn hear_until(&mut self, last: &str) -> Fallible<()> {
        loop {
            let Some((at, event)) = self.early.remove(&self.next) else {
                let heard = self.heard.as_mut().ok_or("the receiver is not running")?;
                let next = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
                let next = next.map_err(|_| format!("no webhook {last} within 20 s"))?;
                let (at, event) = next.ok_or("the receiver stopped")?;
                self.early.insert(event["sequence"].as_u64().unwrap_or_default(), (at, event));
                continue;
            };
            self.next += 1;
            heard(at, &event);
            if text(&event, "type") == last {
                return Ok(());
            }
        }
    }

    /// Tells what is heard of the payments that somebody makes with the curl lines.
    async fn listen(&mut self) {
        let Some(receiver) = &mut self.heard else { return };
        while let Some((at, event)) = receiver.recv().await {
            heard(at, &event);
        }
    }

    async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Fallible<Response> {
        let mut request =
            self.http.post(format!("{}{path}", self.api)).header("x-api-key", &self.key);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.json(body).send().await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(format!("{path} answered {}: {}", response.status(), response.text().await?).into())
    }

    fn say(&self, who: &str, what: &str) {
        say(self.env.now(), who, what);
    }
}

#[derive(Clone)]
struct Receiver {
    verifier: StandardVerifier,
    env: Env,
    tell: mpsc::UnboundedSender<(Timestamp, Value)>,
}

impl axum::extract::FromRef<Receiver> for StandardVerifier {
    fn from_ref(receiver: &Receiver) -> Self {
        receiver.verifier.clone()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    webhook: VerifiedWebhook<StandardVerifier>,
) -> StatusCode {
    let Ok(event) = serde_json::from_slice(webhook.body()) else { return StatusCode::BAD_REQUEST };
    match receiver.tell.send((receiver.env.now(), event)) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::GONE,
    }
}

fn heard(at: Timestamp, event: &Value) {
    let object = &event["data"]["object"];
    let (kind, amount, status) = (text(event, "type"), amount(object), text(object, "status"));
    say(at, "receiver", &format!("{kind}: {amount} is {status}; signature verified"));
}

fn say(at: Timestamp, who: &str, what: &str) {
    println!("{:<15} {who:<9} {what}", &at.to_string()[11..26]);
}

fn text(object: &Value, member: &str) -> String {
    object[member].as_str().unwrap_or_default().to_owned()
}

fn amount(object: &Value) -> String {
    format!("{} {}", object["amount"], text(object, "currency"))
}

fn curl_lines(api: SocketAddr, key: &str, payment: &str) {
    println!(
        r#"
Serving on http://{api}/api until Ctrl-C. Try:

  curl -s http://{api}/api/payments/{payment} -H 'X-API-Key: {key}'

  curl -s http://{api}/api/payments -H 'X-API-Key: {key}' -H 'Idempotency-Key: mine-1' -H 'Prefer: wait=5' \
    --json '{{"amount":"12.50","currency":"EUR","customer_email":"bo@example.com","customer_name":"Bo","payment_method":"tok_visa"}}'

  curl -s 'http://{api}/api/webhook-events?limit=5' -H 'X-API-Key: {key}'

Other payment methods: tok_decline_insufficient_funds, tok_requires_action, tok_pending_then_ok, tok_timeout_after_charge.
"#
    );
}
