//! The server: signals, logs, clients in other languages, and a kill in the middle.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command::{Pgw, client};

#[test]
fn clients_in_other_languages_pay_and_refund() {
    let serving = Pgw::new().serve(&[]);
    let key = serving.first_key();
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/clients");
    for (program, file) in [("node", "client.mjs"), ("python3", "client.py")] {
        let path = format!("{clients}/{file}");
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(source.lines().count() <= 40, "{file}");
        let done = Command::new(program)
            .arg(path)
            .env("PGW_URL", serving.api(""))
            .env("PGW_KEY", &key)
            .output()
            .unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        let heard = String::from_utf8_lossy(&done.stderr);
        assert!(said.trim_end().ends_with("succeeded succeeded"), "{file}: {said}{heard}");
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way() {
    let serving = Pgw::new().serve(&[]);
    let key = serving.first_key();
    let slow = serde_json::json!({"amount": "1.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A", "payment_method": "tok_slow_1500"});
    let request = client()
        .post(serving.api("/payments"))
        .header("x-api-key", key)
        .header("prefer", "wait=20")
        .json(&slow);
    let asked = tokio::spawn(request.send());
    // The request is there once the payment is.
    let metrics = serving.root("/metrics");
    while !client()
        .get(&metrics)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap()
        .contains("payment.created")
    {}
    let stopped = tokio::task::spawn_blocking(move || serving.stop());
    let answer: Value = asked.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["status"], "succeeded");
    let (code, log, _) = stopped.await.unwrap();
    assert_eq!(code, Some(0));
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(entry["timestamp"].is_string() && entry["level"].is_string(), "{line}");
    }
    assert!(log.contains("\"message\":\"stopped\""), "{log}");
}

#[test]
fn the_log_file_is_opened_anew() {
    let path = std::env::temp_dir().join(format!("pgw-log-{}", std::process::id()));
    let moved = path.with_extension("1");
    // The server says on standard output where it listens only when it does not log to a file, so this one's is found by its file.
    let pgw = Pgw::new().with("LOG_FILE", path.to_str().unwrap());
    let mut child = pgw.command(&["serve", "--port", "0"]).spawn().unwrap();
    let wait_for = |path: &std::path::Path, word: &str| {
        while !std::fs::read_to_string(path).unwrap_or_default().contains(word) {
            std::thread::yield_now();
        }
    };
    wait_for(&path, "serving");
    std::fs::rename(&path, &moved).unwrap();
    let signal =
        |name: &str| Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    signal("-HUP");
    while !path.exists() {
        std::thread::yield_now();
    }
    signal("-TERM");
    assert!(child.wait().unwrap().success());
    wait_for(&path, "stopped");
    assert!(!std::fs::read_to_string(&moved).unwrap().contains("stopped"));
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(moved).unwrap();
}

/// `pgw serve 2>&1 | head -1`: who reads the log goes away.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let mut command = pgw.command(&["serve", "--port", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .map(|line| line.unwrap())
        .map(|line| serde_json::from_str::<Value>(&line).unwrap_or_else(|_| panic!("{line}")))
        .find_map(|entry| entry["address"].as_str().map(str::to_owned));
    drop(child.stderr.take());
    let url = format!("http://{}/api/payments", address.expect("it says where it serves"));
    for _ in 0..3 {
        let answer = client().get(&url).header("x-api-key", &key).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_taken_port_is_said_with_what_to_do() {
    let serving = Pgw::new().serve(&[]);
    let port = serving.address.port().to_string();
    let taken = Pgw::new().run(&["serve", "--port", &port]);
    assert_eq!(taken.code, 1);
    assert!(taken.err.contains("--port 0"), "{}", taken.err);
    assert_eq!(Pgw::new().run(&["serve", "--no-worker"]).code, 2);
}

/// Clients that repeat with their key see one charge each, however often the server is killed.
#[tokio::test]
async fn ten_kills_and_every_key_has_one_payment() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let mut serving = pgw.serve(&[]);
    let (addresses, address) = tokio::sync::watch::channel(serving.api(""));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut buyers = Vec::new();
    for buyer in 0..8 {
        let (key, address, stopped) = (key.clone(), address.clone(), stopped.clone());
        buyers.push(tokio::spawn(async move {
            let http = client();
            let mut paid = Vec::new();
            for order in 0.. {
                if *stopped.borrow() {
                    return paid;
                }
                let body = serde_json::json!({"amount": "5.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A"});
                let idempotency = format!("buyer-{buyer}-{order}");
                let id = loop {
                    let url = format!("{}/payments", *address.borrow());
                    let request = http.post(url).header("x-api-key", &key).header("idempotency-key", &idempotency);
                    match request.json(&body).send().await {
                        Ok(answer) if answer.status() == 201 => {
                            let payment: Value = match answer.json().await {
                                Ok(payment) => payment,
                                Err(_) => continue,
                            };
                            break payment["id"].as_str().unwrap().to_owned();
                        }
                        // Killed, or not there yet: the same key again.
                        Ok(_) | Err(_) => tokio::task::yield_now().await,
                    }
                };
                paid.push((idempotency, id));
            }
            paid
        }));
    }
    for kill in 1..=10_u32 {
        let metrics = serving.root("/metrics");
        // After another number of payments each time.
        let enough = format!("pgw_events_total{{type=\"payment.created\"}} {}", kill * 3);
        let at_least = |text: &str| {
            let line =
                text.lines().find(|l| l.starts_with("pgw_events_total{type=\"payment.created\"}"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).unwrap_or(0)
                >= kill * 3
        };
        loop {
            let text = client().get(&metrics).send().await.unwrap().text().await.unwrap();
            if text.contains(&enough) || at_least(&text) {
                break;
            }
        }
        serving.signal("KILL");
        serving = pgw.serve(&[]);
        addresses.send_replace(serving.api(""));
    }
    stop.send_replace(true);
    let mut all = 0;
    for buyer in buyers {
        for (idempotency, id) in buyer.await.unwrap() {
            let url = serving.api(&format!("/payments?idempotency_key={idempotency}"));
            let found: Value = client()
                .get(url)
                .header("x-api-key", &key)
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            let found = found["data"].as_array().unwrap().clone();
            assert_eq!(found.len(), 1, "{idempotency}");
            assert_eq!(found[0]["id"], id.as_str());
            all += 1;
        }
    }
    assert!(all >= 150, "{all} payments");
    // Each was charged once: the totals of the database's own operations say so.
    let schema = pgw.variable("PGW_SCHEMA");
    crate::operating::execute(
        &pgw,
        &format!(
            "do $$ begin if exists (select 1 from {schema}.operations where kind = 'charge' group by payment having count(*) > 1) \
         then raise exception 'a payment has two charges'; end if; end $$"
        ),
    );
}
