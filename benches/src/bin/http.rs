//! The HTTP API as the command serves it, against what pgbench gets out of the same server by itself.
//!
//! `cargo build --release -p pgw-cli && cargo run --release -p benches --bin http [-- --seconds N] [--connections N]`. Measures `pgw serve`: POST
//! and GET on PostgreSQL with `fsync` and `synchronous_commit` on, in turn with pgbench's BEGIN, three INSERTs, COMMIT; POST in memory, with and
//! without the layers around the handlers; cold starts; and what an idle server holds. On PostgreSQL workers are elsewhere, in memory the charges
//! are ones that take long, so that only the API works. The last line is
//! `result: post_vs_a=… post_per_s=… post_p99_ms=… get_per_s=… memory_post_per_s=… layers_cost=… cold_start_ms=… idle_rss_mib=…`.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use benches::baseline;
use benches::command::{Serving, binary, run};
use benches::load::hammer;
use benches::pgbench::{Load, pgbench};
use benches::time::{Moment, quantile};
use http::HeaderMap;
use pgw_core::access::{Actor, Principal, Role};
use pgw_core::gateway::Gateway;
use pgw_core::scope::Scope;
use pgw_http::auth::{Authenticator, Denied};
use pgw_http::serve::Server;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, raw_sql};
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if arguments.next_if(|argument| argument == BARE).is_some() {
        return runtime.block_on(bare());
    }
    let options = Options::parse(arguments)?;
    runtime.block_on(measure(&options))
}

struct Options {
    seconds: u64,
    connections: usize,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self { seconds: 10, connections: 128 };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--seconds" => options.seconds = value.parse()?,
                "--connections" => options.connections = value.parse()?,
                _ => return Err(format!("{name}: there are --seconds and --connections").into()),
            }
        }
        Ok(options)
    }
}

async fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let (a, post, get) = on_postgres(options).await?;
    row("pgbench: BEGIN, three INSERTs, COMMIT", &a);
    row("POST /payments on PostgreSQL", &post);
    row("GET /payments/{id} on PostgreSQL", &get);
    let (layered, unlayered) = in_memory(options).await?;
    row("POST /payments in memory", &layered);
    row("the same without authentication, limits, headers, logs", &unlayered);
    let (cold, rss) = idle().await?;
    let mib = std::fs::metadata(binary()?)?.len() as f64 / f64::from(1 << 20);
    println!("{:<60} {:>10.1} ms", "from start to the first 200", cold.as_secs_f64() * 1e3);
    println!("{:<60} {rss:>10.1} MiB", "resident when idle");
    println!("{:<60} {mib:>10.1} MiB", "the binary");
    println!(
        "result: post_vs_a={:.2} post_per_s={:.0} post_p99_ms={:.1} get_per_s={:.0} memory_post_per_s={:.0} layers_cost={:.2} \
         cold_start_ms={:.0} idle_rss_mib={rss:.1}",
        post.per_s / a.per_s,
        post.per_s,
        post.p99.as_secs_f64() * 1e3,
        get.per_s,
        layered.per_s,
        1.0 - layered.per_s / unlayered.per_s,
        cold.as_secs_f64() * 1e3,
    );
    Ok(())
}

fn row(what: &str, load: &Load) {
    let p99 = load.p99.as_secs_f64() * 1e3;
    println!("{what:<60} {:>10.0}/s   p99 {p99:>6.1} ms", load.per_s);
}

async fn on_postgres(options: &Options) -> Result<(Load, Load, Load), Box<dyn Error>> {
    let postgres = benches::server::start(&[]).await?;
    let mut variables = quiet();
    for line in run(&["crypto", "generate"], &[])?.lines() {
        let (name, value) = line.split_once('=').ok_or("secrets are NAME=value")?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    variables.push(("DATABASE_URL".to_owned(), postgres.url()));
    run(&["migrate"], &variables)?;
    let key = run(&["keys", "create", "--role", "admin", "--name", "benchmark"], &variables)?;
    let mut owner = PgConnection::connect(&postgres.url()).await?;
    raw_sql(baseline::TABLES).execute(&mut owner).await?;
    let a = pgbench(&postgres, &baseline::three_inserts(), options.connections, options.seconds)?;
    raw_sql("truncate baseline.payments, baseline.events, baseline.idempotency_keys; checkpoint")
        .execute(&mut owner)
        .await?;
    let (server, _) = Serving::start(&["--no-worker"], &variables)?;
    let (post, ids) =
        post(options, server.address, "/api/payments", key.trim(), "tok_visa").await?;
    let key = key.trim().to_owned();
    let time = Duration::from_secs(options.seconds);
    let read = move |n: u64| {
        let id = &ids[usize::try_from(n).unwrap_or(0).wrapping_mul(7_919) % ids.len()];
        format!("GET /api/payments/{id} HTTP/1.1\r\nhost: pgw\r\nx-api-key: {key}\r\n\r\n")
    };
    let get = hammer(server.address, options.connections, time, read, |_| ()).await?;
    Ok((a, post, get))
}

/// Creates payments, each with a key of its own. The ids of some of them.
async fn post(
    options: &Options,
    address: SocketAddr,
    path: &str,
    key: &str,
    method: &'static str,
) -> Result<(Load, Vec<String>), Box<dyn Error>> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: pgw\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
    );
    let request = move |order: u64| {
        let body = format!(
            r#"{{"amount":"49.99","currency":"USD","payment_method":"{method}","customer_email":"ada.lovelace@example.com","customer_name":"Ada Lovelace","customer_id":"cus_42","description":"order-{order}"}}"#
        );
        format!(
            "{head}idempotency-key: order-{order:032}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let ids = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&ids);
    let heard = move |body: &[u8]| {
        let mut ids = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() < IDS_MAX {
            let text = String::from_utf8_lossy(body);
            let id = text.split('"').find(|part| part.starts_with("pay_"));
            ids.extend(id.map(str::to_owned));
        }
    };
    let time = Duration::from_secs(options.seconds);
    let load = hammer(address, options.connections, time, request, heard).await?;
    let ids = std::mem::take(&mut *ids.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((load, ids))
}

/// With all layers, then with none.
async fn in_memory(options: &Options) -> Result<(Load, Load), Box<dyn Error>> {
    let (server, key) = Serving::start(&[], &quiet())?;
    let key = key.ok_or("the server told no key")?;
    let (layered, _) = post(options, server.address, "/api/payments", &key, SLOW).await?;
    drop(server);
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .arg(BARE)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    use tokio::io::AsyncBufReadExt as _;
    let stdout = child.stdout.take().ok_or("it says nothing")?;
    let address = tokio::io::BufReader::new(stdout).lines().next_line().await?;
    let address = address.ok_or("it ended early")?.parse()?;
    let (unlayered, _) = post(options, address, "/payments", "none", SLOW).await?;
    child.kill().await?;
    Ok((layered, unlayered))
}

/// Is a server without layers: everybody is an administrator, nothing is counted or logged.
async fn bare() -> Result<(), Box<dyn Error>> {
    let gateway = Gateway::builder()
        .with_storage(Arc::new(MemoryStorage::new()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .build()?;
    let _worker = pgw_core::worker::Worker::new(&gateway).start();
    let config = pgw_http::Config::default().with_authenticator(Arc::new(Everybody));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    Server::new().serve(listener, pgw_http::router(gateway, config)).await;
    Ok(())
}

/// Lets everybody in.
#[derive(Debug)]
struct Everybody;

#[async_trait]
impl Authenticator for Everybody {
    async fn authenticate(&self, _headers: &HeaderMap) -> Result<Principal, Denied> {
        Ok(Principal { scope: Scope::default(), actor: Actor::Host, role: Role::Admin })
    }
}

/// The median of cold starts until `/livez` answers, and what a server holds that did nothing yet.
async fn idle() -> Result<(Duration, f64), Box<dyn Error>> {
    let mut starts = Vec::new();
    let mut rss = f64::NAN;
    for _ in 0..STARTS {
        let start = Moment::now();
        let (server, _) = Serving::start(&[], &quiet())?;
        let request = |_| "GET /livez HTTP/1.1\r\nhost: pgw\r\n\r\n".to_owned();
        hammer(server.address, 1, Duration::from_nanos(1), request, |_| ()).await?;
        starts.push(start.ago());
        rss = server.rss_mib()?;
    }
    Ok((quantile(&mut starts, 0.5), rss))
}

/// Without limits on rates, which would be what is measured.
fn quiet() -> Vec<(String, String)> {
    vec![("RATE_LIMIT".to_owned(), "0".to_owned()), ("LOG_LEVEL".to_owned(), "info".to_owned())]
}

const BARE: &str = "bare";
/// A card whose charge takes longer than the measurement.
const SLOW: &str = "tok_slow_60000";
/// Payments that are read again.
const IDS_MAX: usize = 20_000;
const STARTS: usize = 9;
