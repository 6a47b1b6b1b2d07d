//! What is seen from outside: the log, and where they are built in, traces and reports as a collector on loopback hears them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::closed_port;
use crate::command::{Pgw, Serving, client};

async fn pay(serving: &Serving, key: &str) -> Value {
    let order = json!({"amount": "49.99", "currency": "USD", "customer_email": "ada@example.com", "customer_name": "Ada Lovelace"});
    let request = client().post(serving.api("/payments")).header("x-api-key", key);
    let answer = request.header("prefer", "wait=20").json(&order).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.json().await.unwrap()
}

fn entries(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[tokio::test]
async fn lines_of_requests_and_jobs_say_whose_they_are() {
    let serving = Pgw::new().with("LOG_LEVEL", "debug").serve(&[]);
    let key = serving.first_key();
    let payment = pay(&serving, &key).await;
    let one = serving.api(&format!("/payments/{}", payment["id"].as_str().unwrap()));
    let request = client().get(one).header("x-api-key", &key).header("x-request-id", "mine-1");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let stranger = client().get(serving.api("/refunds")).header("x-request-id", "mine-2");
    assert_eq!(stranger.send().await.unwrap().status(), 401);
    let (_, log, _) = serving.stop();
    let entries = entries(&log);
    let answered = |route: &str, method: &str| {
        let mut lines = entries.iter().filter(|it| it["target"] == "pgw_http::access");
        let line = lines.find(|it| it["span"]["route"] == route && it["span"]["method"] == method);
        line.unwrap_or_else(|| panic!("{method} {route} in {log}"))
    };
    let created = answered("/payments", "POST");
    assert_eq!((&created["status"], &created["message"]), (&json!(201), &json!("answered")));
    assert!(created["duration_us"].as_u64().is_some(), "{created}");
    let span = &created["span"];
    assert_eq!((&span["name"], &span["merchant"]), (&json!("pgw.request"), &json!("default")));
    assert_eq!((&span["mode"], &span["payment"]), (&json!("test"), &payment["id"]));
    assert!(span["request_id"].as_str().unwrap().starts_with("req_"));
    let read = &answered("/payments/{id}", "GET")["span"];
    assert_eq!((&read["request_id"], &read["payment"]), (&json!("mine-1"), &payment["id"]));
    let refused = answered("/refunds", "GET");
    assert_eq!(
        (&refused["status"], &refused["span"]["request_id"]),
        (&json!(401), &json!("mine-2"))
    );
    assert!(refused["span"].get("merchant").is_none(), "nobody knows whose it was");
    assert!(!log.contains("ada@") && !log.contains("Lovelace") && !log.contains(&key), "{log}");
}

/// Far more lines than a pipe and the log's queue hold: neither who answers a request nor the end waits for who reads the log.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    let pgw = Pgw::new().with("LOG_LEVEL", "trace").with("RATE_LIMIT", "0");
    let mut command = pgw.command(&["serve", "--port", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let entry: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if entry["message"] == "serving" {
            break entry["address"].as_str().unwrap().to_owned();
        }
    };
    let client = client();
    let dropped = async || {
        let metrics = client.get(format!("http://{address}/metrics")).send().await.unwrap();
        let text = metrics.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("pgw_log_lines_dropped_total "));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    while dropped().await == 0 {
        for _ in 0..500 {
            let request = client.get(format!("http://{address}/api/payments"));
            let answer = request.timeout(Duration::from_secs(20)).send().await.expect("an answer");
            assert!(answer.status().is_client_error(), "nobody said who asks");
        }
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("an end");
    assert!(ended.unwrap().success());
}

#[tokio::test]
async fn lines_of_deliveries_say_which() {
    let serving = Pgw::new()
        .with("PGW_WEBHOOK_ALLOW_HTTP", "true")
        .with("PGW_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8")
        .serve(&[]);
    let key = serving.first_key();
    let (_closed, port) = closed_port();
    let hook =
        json!({"url": format!("http://127.0.0.1:{port}/"), "event_types": ["payment.succeeded"]});
    let request = client().post(serving.api("/webhook-endpoints")).header("x-api-key", &key);
    let endpoint: Value = request.json(&hook).send().await.unwrap().json().await.unwrap();
    pay(&serving, &key).await;
    let deliveries = serving.api("/webhook-events");
    let delivery = loop {
        let request = client().get(&deliveries).header("x-api-key", &key);
        let page: Value = request.send().await.unwrap().json().await.unwrap();
        if page["data"][0]["attempts"] == 1 {
            break page["data"][0].clone();
        }
    };
    let (_, log, _) = serving.stop();
    let entries = entries(&log);
    let line = entries.iter().find(|it| it["message"] == "a webhook was not answered");
    let span = &line.unwrap_or_else(|| panic!("{log}"))["span"];
    assert_eq!((&span["name"], &span["merchant"]), (&json!("pgw.delivery"), &json!("default")));
    assert_eq!((&span["event"], &span["endpoint"]), (&delivery["event_id"], &endpoint["id"]));
    assert_eq!((&span["attempt"], &span["mode"]), (&json!(1), &json!("test")));
}

#[tokio::test]
async fn a_filter_leaves_the_lines_of_requests_out() {
    let serving = Pgw::new().with("LOG_LEVEL", "info,pgw_http::access=off").serve(&[]);
    let key = serving.first_key();
    pay(&serving, &key).await;
    let (_, log, _) = serving.stop();
    assert!(log.contains("\"stopped\"") && !log.contains("pgw_http::access"), "{log}");
}

#[cfg(any(feature = "otel", feature = "sentry"))]
mod elsewhere {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::OriginalUri;

    use super::*;

    /// Keeps what is posted to it.
    struct Collector {
        address: std::net::SocketAddr,
        heard: Arc<Mutex<Vec<(String, Bytes)>>>,
    }

    impl Collector {
        async fn start() -> Self {
            let heard: Arc<Mutex<Vec<(String, Bytes)>>> = Arc::default();
            let kept = Arc::clone(&heard);
            let app = Router::new().fallback(move |OriginalUri(uri): OriginalUri, body: Bytes| {
                kept.lock().unwrap().push((uri.path().to_owned(), body));
                std::future::ready("")
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            Self { address, heard }
        }

        /// What arrived at this path, as far as it is text.
        fn text(&self, path: &str) -> String {
            let heard = self.heard.lock().unwrap();
            let bodies = heard.iter().filter(|(at, _)| at == path);
            bodies.map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
        }
    }

    /// Ends a server; the collector goes on meanwhile, for the last reports are sent then.
    async fn stop(serving: Serving) -> String {
        let (code, log, _) = tokio::task::spawn_blocking(|| serving.stop()).await.unwrap();
        assert_eq!(code, Some(0), "{log}");
        log
    }

    #[cfg(feature = "otel")]
    #[tokio::test]
    async fn spans_of_a_payment_arrive_at_a_collector() {
        let collector = Collector::start().await;
        let serving = Pgw::new()
            .with("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address))
            .with("PGW_OTEL_SAMPLE_RATE", "1")
            .with("NODE_ENV", "rehearsal")
            // What is logged is no matter of what is traced.
            .with("LOG_LEVEL", "info,pgw_http=off,pgw_core=off")
            .serve(&[]);
        let key = serving.first_key();
        let payment = pay(&serving, &key).await;
        let log = stop(serving).await;
        let spans = collector.text("/v1/traces");
        let id = payment["id"].as_str().unwrap();
        for word in ["pgw.request", "pgw.operation", id, "request_id", "rehearsal", "default"] {
            assert!(spans.contains(word), "{word} in {spans}\n{log}");
        }
        for secret in ["ada@example.com", "Lovelace", &key] {
            assert!(!spans.contains(secret), "{secret} in {spans}");
        }
    }

    #[cfg(feature = "otel")]
    #[tokio::test]
    async fn a_share_of_none_traces_nothing_and_a_collector_that_is_away_fails_nothing() {
        let collector = Collector::start().await;
        let at = |url: &str, rate: &str| {
            let pgw = Pgw::new().with("OTEL_EXPORTER_OTLP_ENDPOINT", url);
            pgw.with("PGW_OTEL_SAMPLE_RATE", rate)
        };
        let serving = at(&format!("http://{}", collector.address), "0").serve(&[]);
        pay(&serving, &serving.first_key()).await;
        stop(serving).await;
        assert_eq!(collector.text("/v1/traces"), "");
        let serving = at("http://127.0.0.1:1", "1").serve(&[]);
        pay(&serving, &serving.first_key()).await;
        stop(serving).await;
        assert_eq!(at("http://127.0.0.1:1", "2").run(&["serve", "--port", "0"]).code, 2);
    }

    #[cfg(feature = "sentry")]
    #[tokio::test]
    async fn an_error_arrives_without_anything_personal() {
        let collector = Collector::start().await;
        let pgw = Pgw::on_postgres();
        let key = pgw.key("admin");
        let serving = pgw
            .clone()
            .with("SENTRY_DSN", &format!("http://hunter2@{}/7", collector.address))
            .with("NODE_ENV", "rehearsal")
            .with("PGW_SENTRY_TRACES_SAMPLE_RATE", "1")
            .serve(&[]);
        let payment = pay(&serving, &key).await;
        // A mistake that no code foresees: somebody wrote to the database by hand.
        let schema = pgw.variable("PGW_SCHEMA");
        let sql = format!("update {schema}.payments set currency = 'zzz'");
        crate::operating::execute(&pgw, &sql);
        let one = serving.api(&format!("/payments/{}", payment["id"].as_str().unwrap()));
        let request = client().get(one).header("x-api-key", &key);
        assert_eq!(request.send().await.unwrap().status(), 500);
        let log = stop(serving).await;
        let reports = collector.text("/api/7/envelope/");
        for word in ["a request failed by a mistake of ours", "rehearsal", "pgw@", "pgw.request"] {
            assert!(reports.contains(word), "{word} in {reports}\n{log}");
        }
        let event = reports.lines().find(|line| line.contains("a mistake of ours")).unwrap();
        let event: Value = serde_json::from_str(event).unwrap();
        for part in ["user", "request", "server_name", "breadcrumbs", "extra"] {
            assert!(event.get(part).is_none(), "{part} in {event}");
        }
        for secret in ["ada@", "Lovelace", "hunter2", &key] {
            assert!(!reports.contains(secret), "{secret} in {reports}");
        }
        let wrong = pgw.with("SENTRY_DSN", "hunter2").run(&["serve", "--port", "0"]);
        assert_eq!(wrong.code, 2);
        assert!(!wrong.err.contains("hunter2"), "{}", wrong.err);
    }
}
