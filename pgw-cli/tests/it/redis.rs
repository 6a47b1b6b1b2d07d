//! With a Redis beside the database: it speeds work up, and its loss costs nothing but that.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgw_core::env::Env;
use serde_json::{Value, json};
use servers::Redis;

use crate::closed_port;
use crate::command::{Pgw, Serving, client};
use crate::operating::execute;

/// On a database of its own and this Redis.
fn on(server: &Redis) -> Pgw {
    at(server.address())
}

fn at(address: SocketAddr) -> Pgw {
    let pgw = Pgw::on_postgres();
    pgw.with("REDIS_HOST", &address.ip().to_string())
        .with("REDIS_PORT", &address.port().to_string())
}

/// A Cluster that other tests use too.
fn cluster() -> String {
    std::env::var("PGW_TEST_REDIS_CLUSTER").expect("run the tests under `servers`")
}

fn server() -> Redis {
    Redis::builder().start().expect("a server starts")
}

/// What one word of the command line of Redis comes to: the first line of the answer.
fn ask(server: &Redis, command: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// The one value that a query gives.
fn query(pgw: &Pgw, sql: &str) -> String {
    let done = Command::new("psql")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", sql])
        .arg(pgw.variable("DATABASE_URL"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

async fn pay(serving: &Serving, key: &str) -> Value {
    let order = json!({"amount": "5.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A"});
    let request = client().post(serving.api("/payments")).header("x-api-key", key);
    let answer = request.header("prefer", "wait=30").json(&order).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.json().await.unwrap()
}

async fn health(serving: &Serving) -> (u16, String, String) {
    let answer = client().get(serving.root("/health")).send().await.unwrap();
    let code = answer.status().as_u16();
    let health: Value = answer.json().await.unwrap();
    let text = |name: &str| health[name].as_str().unwrap().to_owned();
    (code, text("status"), text("redis"))
}

/// Waits until it says so; a test that waits in vain ends.
async fn until_health(serving: &Serving, redis: &str) {
    let until = async { while health(serving).await.2 != redis {} };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("never {redis}"));
}

/// What `/metrics` says, once it says this.
async fn metrics(serving: &Serving, line: &str) -> String {
    let until = async {
        loop {
            let answer = client().get(serving.root("/metrics")).send().await.unwrap();
            let text = answer.text().await.unwrap();
            if text.lines().any(|one| one == line) {
                return text;
            }
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("never {line}"))
}

/// Has the database write down every claim of a row that is made in it.
fn watch_claims(pgw: &Pgw) {
    let schema = pgw.variable("PGW_SCHEMA");
    execute(
        pgw,
        &format!(
            "create table {schema}.claims_seen (lane text not null); \
             create function {schema}.see_claim() returns trigger language plpgsql as \
             $$ begin insert into {schema}.claims_seen values (tg_table_name); return new; end $$"
        ),
    );
    for table in ["operations", "deliveries"] {
        execute(
            pgw,
            &format!(
                "create trigger see_claim after update on {schema}.{table} for each row \
                 when (new.claimed_until is not null) execute function {schema}.see_claim()"
            ),
        );
    }
}

/// A payment with its webhook, by a server and a worker; how many claims the database saw.
async fn claims_of_a_payment(pgw: &Pgw) -> u32 {
    let pgw = pgw
        .clone()
        .with("PGW_WEBHOOK_ALLOW_HTTP", "true")
        .with("PGW_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8");
    watch_claims(&pgw);
    let key = pgw.key("admin");
    let (serving, worker) = (pgw.serve(&["--no-worker"]), pgw.work());
    // The worker finds out that nobody listens there by an attempt.
    let (_closed, port) = closed_port();
    let hook =
        json!({"url": format!("http://127.0.0.1:{port}/"), "event_types": ["payment.succeeded"]});
    let request = client().post(serving.api("/webhook-endpoints")).header("x-api-key", &key);
    assert_eq!(request.json(&hook).send().await.unwrap().status(), 201);
    assert_eq!(pay(&serving, &key).await["status"], "succeeded");
    loop {
        let request = client().get(serving.api("/webhook-events")).header("x-api-key", &key);
        let page: Value = request.send().await.unwrap().json().await.unwrap();
        if page["data"][0]["attempts"] == 1 {
            break;
        }
    }
    worker.stop();
    let schema = pgw.variable("PGW_SCHEMA");
    query(&pgw, &format!("select count(*) from {schema}.claims_seen")).parse().unwrap()
}

#[tokio::test]
async fn a_claim_in_redis_writes_nothing_to_the_database() {
    let server = server();
    assert_eq!(claims_of_a_payment(&on(&server)).await, 0);
    let pgw = Pgw::on_postgres();
    let shared = pgw.clone().with("REDIS_NAMESPACE", pgw.variable("PGW_SCHEMA"));
    assert_eq!(claims_of_a_payment(&shared.with("REDIS_URL", &cluster())).await, 0);
    // What the database sees without one: it is looked at the right way.
    assert!(claims_of_a_payment(&Pgw::on_postgres()).await >= 2);
}

#[tokio::test]
async fn servers_and_workers_say_how_redis_is() {
    let server = Redis::builder().with_setting("maxmemory", "64mb").start().unwrap();
    let pgw = on(&server);
    let (serving, worker) = (pgw.serve(&["--no-worker"]), pgw.work());
    for process in [&serving, &worker] {
        assert_eq!(health(process).await, (200, "ok".to_owned(), "connected".to_owned()));
        let text = metrics(process, "pgw_redis_up 1").await;
        assert!(text.contains("pgw_queue_jobs{"), "{text}");
        let text = metrics(process, "pgw_redis_maxmemory_bytes 67108864").await;
        assert!(text.contains("pgw_redis_used_memory_bytes "), "{text}");
    }
    let status = pgw.run(&["status", "--json"]).ok().json();
    assert_eq!(status.last().unwrap(), &json!({"object": "redis", "state": "connected"}));
    let without = Pgw::on_postgres().run(&["status", "--json"]).ok().json();
    assert_eq!(without.last().unwrap()["state"], "disabled");
}

/// Redis is killed while payments are made, and each of them succeeds; what was told to it and what was not.
#[tokio::test]
async fn payments_go_on_without_redis_and_redis_comes_back() {
    let mut server = server();
    let pgw = on(&server);
    let key = pgw.key("admin");
    let (serving, worker) = (pgw.serve(&["--no-worker"]), pgw.work());
    for _ in 0..2 {
        let under_way = async {
            for _ in 0..10 {
                assert_eq!(pay(&serving, &key).await["status"], "succeeded");
            }
        };
        let killed = async { server.kill().expect("it is ours") };
        tokio::join!(under_way, killed);
        until_health(&serving, "disconnected").await;
        until_health(&worker, "disconnected").await;
        assert_eq!(health(&serving).await.0, 503);
        assert_eq!(health(&serving).await.1, "degraded");
        // Nobody is to take a process away that takes payments.
        let ready = client().get(serving.root("/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 200);
        metrics(&worker, "pgw_redis_up 0").await;
        assert_eq!(pay(&serving, &key).await["status"], "succeeded");
        let away = pgw.run(&["status", "--json"]).ok().json();
        assert_eq!(away.last().unwrap()["state"], "disconnected");
        server.restart().expect("it starts again");
        until_health(&serving, "connected").await;
        until_health(&worker, "connected").await;
        assert_eq!(pay(&serving, &key).await["status"], "succeeded");
    }
    let (code, log, _) = serving.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("Redis is away") && log.contains("Redis is back"), "{log}");
}

#[tokio::test]
async fn a_server_starts_without_its_redis() {
    let mut server = server();
    let pgw = on(&server);
    let key = pgw.key("admin");
    server.kill().expect("it is ours");
    let serving = pgw.serve(&[]);
    assert_eq!(health(&serving).await, (503, "degraded".to_owned(), "disconnected".to_owned()));
    assert_eq!(pay(&serving, &key).await["status"], "succeeded");
    server.restart().expect("it starts");
    until_health(&serving, "connected").await;
    let (_, log, _) = serving.stop();
    assert!(log.contains("\"redis\":\"disconnected\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_servers_on_one_redis_admit_what_one_would() {
    const QUOTA: u128 = 60;
    const WINDOW: Duration = Duration::from_secs(60);
    let server = server();
    let pgw =
        on(&server).with("RATE_LIMIT_PER_KEY", &QUOTA.to_string()).with("PGW_DB_CONNECTIONS", "1");
    let key = pgw.key("readonly");
    let serving: Vec<Serving> = (0..8).map(|_| pgw.serve(&["--no-worker"])).collect();
    let env = Env::system();
    let began = env.now();
    let askers = serving.iter().map(|serving| {
        let (url, key) = (serving.api("/payments"), key.clone());
        tokio::spawn(async move {
            let (http, mut admitted) = (client(), 0_u128);
            for _ in 0..40 {
                let answer = http.get(&url).header("x-api-key", &key).send().await.unwrap();
                match answer.status().as_u16() {
                    200 => admitted += 1,
                    status => assert_eq!(status, 429),
                }
            }
            admitted
        })
    });
    let askers: Vec<_> = askers.collect();
    let mut admitted = 0;
    for asker in askers {
        admitted += asker.await.unwrap();
    }
    let elapsed = env.now().since(began);
    let most = QUOTA + elapsed.as_micros() * QUOTA / WINDOW.as_micros() + 1;
    assert!((QUOTA..=most).contains(&admitted), "{admitted} of at most {most} in {elapsed:?}");
}

#[tokio::test]
async fn who_is_served_uncounted_is_a_setting() {
    let mut server = server();
    let pgw = on(&server);
    let key = pgw.key("readonly");
    let open = |classes: &str| pgw.clone().with("RATE_LIMIT_FAIL_OPEN", classes);
    let sites = [
        (pgw.clone().serve(&["--no-worker"]), [503, 200]),
        (open("anonymous").serve(&["--no-worker"]), [401, 503]),
        (open("none").serve(&["--no-worker"]), [503, 503]),
    ];
    for (serving, _) in &sites {
        assert_eq!(asked(serving, &key).await, [401, 200], "both are counted");
    }
    server.kill().expect("it is ours");
    for (serving, expected) in &sites {
        until_health(serving, "disconnected").await;
        assert_eq!(asked(serving, &key).await, *expected);
    }
    let wrong = open("everybody").run(&["config", "check"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("rate_limit.fail_open"), "{}", wrong.err);
}

/// What a stranger is answered, and who has a key.
async fn asked(serving: &Serving, key: &str) -> [u16; 2] {
    let stranger = client().get(serving.api("/payments")).send().await.unwrap();
    let holder = client().get(serving.api("/payments")).header("x-api-key", key);
    [stranger.status().as_u16(), holder.send().await.unwrap().status().as_u16()]
}

#[tokio::test]
async fn row_110_a_clear_drops_what_is_ours_and_nobody_elses() {
    let mut server = server();
    // Strangers only: what they owe is kept for seconds, that of a key for milliseconds.
    let pgw = on(&server).with("REDIS_NAMESPACE", "shop").with("RATE_LIMIT_PER_KEY", "0");
    let (key, other) = (pgw.key("admin"), pgw.key("readonly"));
    let serving = pgw.serve(&["--no-worker"]);
    let order = json!({"amount": "5.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A"});
    let request = client().post(serving.api("/payments")).header("x-api-key", &key);
    let payment: Value = request.json(&order).send().await.unwrap().json().await.unwrap();
    assert_eq!(asked(&serving, &other).await, [401, 200]);
    let queue = "EXISTS pgw:{shop:operations:0of1}:jobs";
    assert_eq!(ask(&server, queue), ":1", "nobody works on it yet");
    for foreign in ["session:7", "pgw:{stall:operations:0of1}:jobs", "bull:mail:wait"] {
        assert_eq!(ask(&server, &format!("SET {foreign} theirs")), "+OK");
    }
    assert_eq!(ask(&server, "KEYS pgw:{shop:limit:*"), "*1", "a stranger was counted");
    // What a process has looked up is not looked up again, even if it changed behind its back.
    let schema = pgw.variable("PGW_SCHEMA");
    let revoke = format!("update {schema}.api_keys set revoked_at = now() where role = 'readonly'");
    execute(&pgw, &revoke);

    let cleared = pgw.run(&["cache", "clear", "--json"]).ok().json().remove(0);
    assert_eq!((&cleared["object"], &cleared["queue"]), (&json!("cache_clear"), &json!("redis")));
    assert_eq!(ask(&server, queue), ":0");
    for foreign in ["session:7", "pgw:{stall:operations:0of1}:jobs", "bull:mail:wait"] {
        assert_eq!(ask(&server, &format!("EXISTS {foreign}")), ":1", "{foreign}");
    }
    assert_eq!(ask(&server, "KEYS pgw:{shop:limit:*"), "*1", "limits go on");
    let forgotten = async { while asked(&serving, &other).await[1] != 403 {} };
    // Sooner than it would forget by itself, which takes half a minute.
    tokio::time::timeout(Duration::from_secs(15), forgotten).await.expect("it looks again");
    // The row is still due, and a worker finds it.
    let _worker = pgw.work();
    let url = serving.api(&format!("/payments/{}", payment["id"].as_str().unwrap()));
    loop {
        let request = client().get(&url).header("x-api-key", &key);
        let now: Value = request.send().await.unwrap().json().await.unwrap();
        if now["status"] == "succeeded" {
            break;
        }
    }
    server.kill().expect("it is ours");
    let away = pgw.run(&["cache", "clear"]);
    assert_eq!(away.code, 3);
    assert!(away.err.contains("try again"), "{}", away.err);
    let rows = Pgw::on_postgres().run(&["cache", "clear", "--json"]).ok().json().remove(0);
    assert_eq!((&rows["queue"], &rows["redis"]), (&json!("rows"), &json!("disabled")));
    assert_eq!(Pgw::new().run(&["cache", "clear"]).code, 2, "it needs a database");
    let help = Pgw::new().run(&["cache", "clear", "--help"]).ok().out;
    assert!(help.contains("FLUSHDB") && help.contains("idempotency keys"), "{help}");
}

/// All that is in Redis after payments and refused strangers is searched for who they were.
#[tokio::test]
async fn nothing_personal_and_no_secret_is_in_redis() {
    let server = Redis::builder().with_setting("rdbcompression", "no").start().unwrap();
    let pgw = on(&server);
    let key = pgw.key("admin");
    let serving = pgw.serve(&["--no-worker"]);
    let order = json!({"amount": "7319527.13", "currency": "USD", "customer_email": "ada@marker.example", "customer_name": "Lovelace", "customer_id": "cus_marker", "description": "marker", "payment_method": "tok_visa"});
    let request = client().post(serving.api("/payments")).header("x-api-key", &key);
    let request = request.header("idempotency-key", "order-marker").json(&order);
    assert_eq!(request.send().await.unwrap().status(), 201);
    assert_eq!(asked(&serving, &key).await, [401, 200]);
    assert_eq!(ask(&server, "SAVE"), "+OK");
    let dump = std::fs::read(server.directory().join("dump.rdb")).unwrap();
    let holds = |text: &str| dump.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("pgw:{default:operations:0of1}:jobs") && holds("pgw:{default:limit:"));
    // More digits than a time there has in common with them by chance.
    let amounts = ["7319527.13", "731952713"];
    for text in ["marker", "Lovelace", "tok_visa", "127.0.0.1", &key].into_iter().chain(amounts) {
        assert!(!holds(text), "{text}");
    }
}

/// A revocation by a command is heard by servers before the command ends, with Redis and without.
#[tokio::test]
async fn revocations_of_a_command_are_told() {
    let server = server();
    for pgw in [on(&server), Pgw::on_postgres()] {
        let made = pgw.run(&["keys", "create", "--role", "readonly", "--name", "n", "--json"]);
        let made = made.ok().json().remove(0);
        let serving = pgw.serve(&["--no-worker"]);
        let key = made["key"].as_str().unwrap();
        assert_eq!(asked(&serving, key).await[1], 200);
        pgw.run(&["keys", "revoke", made["id"].as_str().unwrap()]).ok();
        let heard = async { while asked(&serving, key).await[1] != 403 {} };
        tokio::time::timeout(Duration::from_secs(15), heard).await.expect("it was told");
    }
}

fn grades(pgw: &Pgw) -> impl Fn(&str) -> (String, String) + use<> {
    let looked = pgw.run(&["doctor", "--json"]);
    let findings = looked.json();
    move |check: &str| {
        let found = findings.iter().find(|one| one["check"] == check);
        let found = found.unwrap_or_else(|| panic!("{check} in {}{}", looked.out, looked.err));
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        (text("grade"), text("detail"))
    }
}

#[test]
fn the_doctor_looks_at_redis() {
    let server = Redis::builder()
        .with_password("hunter2")
        .with_setting("maxmemory", "64mb")
        .start()
        .unwrap();
    let pgw = on(&server).with("REDIS_PASSWORD", "hunter2");
    let good = grades(&pgw);
    for check in ["redis", "redis evictions", "redis memory", "redis clock", "queue of operations"]
    {
        assert_eq!(good(check).0, "ok", "{check}: {}", good(check).1);
    }
    assert!(good("redis").1.contains("one node"), "{}", good("redis").1);
    assert!(good("redis memory").1.contains("of 64 MiB"), "{}", good("redis memory").1);
    let wrong = grades(&pgw.with("REDIS_PASSWORD", "hunter3"))("redis");
    assert_eq!(wrong.0, "fail");
    assert!(wrong.1.contains("WRONGPASS") && !wrong.1.contains("hunter"), "{}", wrong.1);
    let loose = Redis::builder().with_setting("maxmemory-policy", "allkeys-lru").start().unwrap();
    let loose = grades(&on(&loose));
    assert_eq!(loose("redis evictions").0, "warn");
    assert_eq!(loose("redis memory").0, "warn", "nothing bounds it");
    let schema = Pgw::on_postgres();
    let cluster = grades(&schema.clone().with("REDIS_URL", &cluster()))("redis");
    assert_eq!(cluster.0, "ok");
    assert!(cluster.1.contains("a Cluster of 3 masters"), "{}", cluster.1);
    assert_eq!(grades(&schema)("redis").0, "ok", "there is none");
}

/// Passwords from files, TLS with an authority of its own, and users: by their own settings and by a URL.
#[test]
fn every_way_to_say_where_redis_is_leads_there() {
    let tls = Redis::builder().with_tls().start().unwrap();
    let authority = tls.authority().unwrap();
    let by_host =
        on(&tls).with("REDIS_TLS", "true").with("REDIS_CA_FILE", authority.to_str().unwrap());
    assert_eq!(grades(&by_host)("redis").0, "ok");
    let by_url = Pgw::on_postgres()
        .with("REDIS_URL", &tls.url())
        .with("REDIS_CA_FILE", authority.to_str().unwrap());
    assert_eq!(grades(&by_url)("redis").0, "ok");
    let untrusted = grades(&on(&tls).with("REDIS_TLS", "true"))("redis");
    assert_eq!(untrusted.0, "fail", "nobody vouches for it");

    let server = Redis::builder().with_user("app", "p,ss@word").start().unwrap();
    let file = std::env::temp_dir().join(format!("pgw-redis-password-{}", std::process::id()));
    std::fs::write(&file, "p,ss@word\n").unwrap();
    let by_file =
        on(&server).with("REDIS_USER", "app").with("REDIS_PASSWORD_FILE", file.to_str().unwrap());
    assert_eq!(grades(&by_file)("redis").0, "ok");
    std::fs::remove_file(file).unwrap();
    let by_url = format!("redis://app:p%2Css%40word@{}", server.address());
    assert_eq!(grades(&Pgw::on_postgres().with("REDIS_URL", &by_url))("redis").0, "ok");

    let sentinels = servers::RedisSentinel::start().unwrap();
    let by_name = Pgw::on_postgres()
        .with("REDIS_URL", &sentinels.urls().join(","))
        .with("REDIS_SENTINEL_MASTER", servers::RedisSentinel::MASTER);
    assert_eq!(grades(&by_name)("redis").0, "ok");
}

#[test]
fn what_contradicts_itself_says_what_to_do() {
    let database = Pgw::new()
        .with("DATABASE_URL", "postgres://pg_user:hunter2@127.0.0.1/shop")
        .with("PGW_API_KEY_PEPPER", &"p".repeat(32))
        .with("PGW_ENCRYPTION_KEYS", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let url = "redis://:hunter2@127.0.0.1:6379/0";
    for (variables, told) in [
        (&[("REDIS_URL", url), ("REDIS_HOST", "127.0.0.1")][..], "keep one"),
        (&[("REDIS_URL", url), ("REDIS_PASSWORD", "hunter2")], "keep one"),
        (&[("REDIS_HOST", "127.0.0.1"), ("REDIS_USER", "app")], "needs redis.password"),
        (&[("REDIS_URL", "http://:hunter2@127.0.0.1")], "redis.url (environment, REDIS_URL)"),
        (&[("REDIS_URL", "redis://:hunt,er2@127.0.0.1")], "%2C"),
        (&[("REDIS_URL", url), ("REDIS_TLS", "true")], "rediss://"),
        (&[("REDIS_URL", url), ("REDIS_CA_FILE", "/ca.pem")], "is for TLS"),
        (&[("REDIS_HOST", "127.0.0.1"), ("REDIS_SENTINEL_MASTER", "m")], "needs redis.url"),
        (
            &[("REDIS_URL", url), ("REDIS_CLUSTER", "true"), ("REDIS_SENTINEL_MASTER", "m")],
            "exclude each other",
        ),
        (&[("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", "many")], "redis.port"),
        (&[("REDIS_HOST", "127.0.0.1"), ("REDIS_NAMESPACE", "a b")], "a namespace is"),
    ] {
        let pgw =
            variables.iter().fold(database.clone(), |pgw, (name, value)| pgw.with(name, value));
        let check = pgw.run(&["config", "check"]);
        assert_eq!(check.code, 2, "{variables:?}");
        assert!(check.err.contains(told), "{variables:?}: {}", check.err);
        assert!(!check.err.contains("hunter2") && !check.err.contains("er2@"), "{}", check.err);
    }
    let memory = Pgw::new().with("REDIS_HOST", "127.0.0.1").run(&["serve", "--port", "0"]);
    assert_eq!(memory.code, 2);
    assert!(memory.err.contains("Set DATABASE_URL"), "{}", memory.err);
    let elsewhere = database.clone().with("REDIS_URL", "redis://:hunter2@cache.internal:6380/3");
    let check = elsewhere.run(&["config", "check"]).ok();
    let said = format!("{}{}", check.out, check.err);
    assert!(
        said.contains("redis://…@cache.internal:6380/3") && !said.contains("hunter2"),
        "{said}"
    );
    assert!(said.contains("the connection to Redis is not encrypted"), "{said}");
    let idle = database.with("REDIS_PASSWORD", "hunter2").run(&["config", "check"]).ok();
    assert!(idle.err.contains("redis.password does nothing"), "{}", idle.err);
}

/// For a starved machine; what is waited for takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
