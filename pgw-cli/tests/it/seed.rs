//! What the deployment guide that pgw answers to shows on the wire or on the command line: each test is named after the rows of `docs/seed.md`, and
//! runs against the running command, in memory and on PostgreSQL.

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::closed_port;
use crate::command::{Pgw, Serving, client};

/// A server and a key of its administrator.
struct Site {
    serving: Serving,
    pgw: Pgw,
    key: String,
}

impl Site {
    /// In memory, then on PostgreSQL, each with these variables.
    fn both(variables: &[(&str, &str)]) -> Vec<Self> {
        let with =
            |pgw: Pgw| variables.iter().fold(pgw, |pgw, (name, value)| pgw.with(name, value));
        let pgw = with(Pgw::new());
        let serving = pgw.serve(&[]);
        let key = serving.first_key();
        vec![Self { serving, pgw, key }, Self::on_postgres(variables)]
    }

    fn on_postgres(variables: &[(&str, &str)]) -> Self {
        let pgw = Pgw::on_postgres();
        let pgw = variables.iter().fold(pgw, |pgw, (name, value)| pgw.with(name, value));
        let key = pgw.key("admin");
        Self { serving: pgw.serve(&[]), pgw, key }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, self.serving.api(path)).header("x-api-key", &self.key)
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let answer = self.request(method, path).json(body).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    async fn paid(&self) -> Value {
        let request = self.request(Method::POST, "/payments").header("prefer", "wait=20");
        let answer = request.json(&order()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let payment: Value = answer.json().await.unwrap();
        assert_eq!(payment["status"], "succeeded", "{payment}");
        payment
    }
}

fn order() -> Value {
    json!({"amount": 49.99, "currency": "USD", "customer_email": "ada@example.com", "customer_name": "Ada Lovelace", "customer_id": "cus_42"})
}

fn header<'r>(answer: &'r Response, name: &str) -> &'r str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn row_16_addresses_start_with_the_public_url() {
    for site in Site::both(&[("API_URL", "https://pay.example.com/")]) {
        let answer = site.request(Method::POST, "/payments").json(&order()).send().await.unwrap();
        assert!(
            header(&answer, "location").starts_with("https://pay.example.com/api/payments/pay_")
        );
        let (_, problem) = site.send(Method::POST, "/payments", &json!({})).await;
        assert!(
            problem["type"].as_str().unwrap().starts_with("https://pay.example.com/api/problems/")
        );
    }
}

#[tokio::test]
async fn row_31_and_32_health_has_the_four_members() {
    for site in Site::both(&[]) {
        let answer = client().get(site.serving.root("/health")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let health: Value = answer.json().await.unwrap();
        assert_eq!(
            (&health["status"], &health["database"], &health["redis"]),
            (&json!("ok"), &json!("connected"), &json!("disabled"))
        );
        assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));
        for path in ["/livez", "/readyz"] {
            assert_eq!(client().get(site.serving.root(path)).send().await.unwrap().status(), 200);
        }
    }
}

#[tokio::test]
async fn rows_36_to_40_every_answer_has_the_security_headers() {
    for site in Site::both(&[]) {
        for path in [site.serving.api("/payments"), site.serving.root("/health")] {
            let answer = client().get(&path).send().await.unwrap();
            assert_eq!(
                header(&answer, "strict-transport-security"),
                "max-age=31536000; includeSubDomains"
            );
            assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
            assert_eq!(header(&answer, "x-frame-options"), "DENY");
            assert!(header(&answer, "content-security-policy").contains("default-src 'none'"));
            assert_eq!(header(&answer, "referrer-policy"), "no-referrer");
            assert_eq!(header(&answer, "cache-control"), "no-store");
            assert!(
                answer.headers().get("server").is_none()
                    && answer.headers().get("x-powered-by").is_none()
            );
            assert!(["", "0"].contains(&header(&answer, "x-xss-protection")));
        }
    }
}

#[tokio::test]
async fn rows_23_24_and_41_to_45_strangers_are_counted_and_told() {
    for site in Site::both(&[("RATIONALE_LIMIT", "3"), ("RATIONALE_WINDOW", "600000")]) {
        let ask = || client().get(site.serving.api("/payments")).send();
        for left in [2, 1, 0] {
            let answer = ask().await.unwrap();
            assert_eq!(answer.status(), 401);
            assert_eq!(header(&answer, "ratelimit-limit"), "3");
            assert_eq!(header(&answer, "ratelimit-remaining"), left.to_string());
        }
        let refused = ask().await.unwrap();
        assert_eq!(refused.status(), 429);
        assert!(header(&refused, "retry-after").parse::<u32>().unwrap() > 0);
        assert!(
            !header(&refused, "ratelimit-policy").is_empty()
                && !header(&refused, "ratelimit").is_empty()
        );
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["error"], "Too many requests from this IP");
        // Holders of keys are counted by themselves.
        site.get("/payments").await;
    }
}

#[tokio::test]
async fn rows_46_to_49_exact_origins_only() {
    for site in Site::both(&[("CORS_ORIGINS", "https://shop.example,https://office.example")]) {
        let preflight = |origin: &'static str| {
            client()
                .request(Method::OPTIONS, site.serving.api("/payments"))
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "content-type,idempotency-key,x-api-key")
                .send()
        };
        let answer = preflight("https://shop.example").await.unwrap();
        assert_eq!(header(&answer, "access-control-allow-origin"), "https://shop.example");
        let allowed = header(&answer, "access-control-allow-headers").to_lowercase();
        for name in
            ["content-type", "idempotency-key", "x-api-key", "authorization", "x-request-id"]
        {
            assert!(allowed.contains(name), "{name} in {allowed}");
        }
        assert_eq!(header(&answer, "access-control-allow-credentials"), "");
        let other = preflight("https://evil.example").await.unwrap();
        assert_eq!(header(&other, "access-control-allow-origin"), "");
    }
    // Without origins there is no CORS, and not that of everybody.
    let site = Site::on_postgres(&[]);
    let answer =
        site.request(Method::GET, "/payments").header("origin", "https://shop.example").send();
    assert_eq!(header(&answer.await.unwrap(), "access-control-allow-origin"), "");
    assert_eq!(
        Pgw::new().with("CORS_ORIGINS", "shop.example").run(&["serve", "--port", "0"]).code,
        2
    );
}

#[tokio::test]
async fn row_50_a_payment_is_created_with_its_address() {
    for site in Site::both(&[]) {
        let answer = site.request(Method::POST, "/payments").json(&order()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let location = header(&answer, "location").to_owned();
        let payment: Value = answer.json().await.unwrap();
        assert_eq!(location, format!("/api/payments/{}", payment["id"].as_str().unwrap()));
        assert_eq!((&payment["amount"], &payment["amount_minor"]), (&json!(49.99), &json!(4999)));
    }
}

#[tokio::test]
async fn rows_51_to_55_each_fault_is_named_and_no_value_echoed() {
    for site in Site::both(&[]) {
        let wrong = json!({"amount": "19.999", "currency": "USD", "customer_email": "hunter2", "customer_name": " "});
        let (status, problem) = site.send(Method::POST, "/payments", &wrong).await;
        assert_eq!(status, 400);
        let text = problem.to_string();
        assert!(!text.contains("hunter2") && !text.contains("19.999"), "{text}");
        let mut paths: Vec<_> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["path"].as_str().unwrap())
            .collect();
        paths.sort_unstable();
        assert_eq!(paths, ["amount", "customer_email", "customer_name"]);
        for (amount, currency, expected) in [
            ("0.01", "USD", 201),
            ("0.001", "USD", 400),
            ("0.01", "JPY", 400),
            ("1", "JPY", 201),
            ("0.001", "KWD", 201),
            ("1", "ZZZ", 400),
            ("0", "USD", 400),
            ("9999999999999.99", "USD", 201),
            ("10000000000000.00", "USD", 400),
        ] {
            let mut order = order();
            order["amount"] = json!(amount);
            order["currency"] = json!(currency);
            let (status, answer) = site.send(Method::POST, "/payments", &order).await;
            assert_eq!(status, expected, "{amount} {currency}: {answer}");
        }
        // 19.99 * 100 is 1998.9999999999998 in binary.
        let mut order = order();
        order["amount"] = json!(19.99);
        assert_eq!(site.send(Method::POST, "/payments", &order).await.1["amount_minor"], 1999);
    }
}

#[tokio::test]
async fn rows_80_to_83_keys_are_asked_for_and_all_bad_ones_look_alike() {
    for site in Site::both(&[]) {
        let url = site.serving.api("/payments");
        let missing = client().get(&url).send().await.unwrap();
        assert_eq!(missing.status(), 401);
        assert!(!header(&missing, "www-authenticate").is_empty());
        assert_eq!(missing.json::<Value>().await.unwrap()["error"], "API key required");
        let mut wrong = site.key.clone();
        wrong.pop();
        wrong.push(if site.key.ends_with('A') { 'B' } else { 'A' });
        let mut answers = Vec::new();
        for key in
            ["nonsense", "pgw_test_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &wrong]
        {
            let answer = client()
                .get(&url)
                .header("x-api-key", key)
                .header("x-request-id", "same")
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 403);
            answers.push(answer.text().await.unwrap());
        }
        assert!(answers[0].contains("Invalid API key"));
        assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
        let bearer = client().get(&url).bearer_auth(&site.key).send().await.unwrap();
        assert_eq!(bearer.status(), 200);
    }
}

#[tokio::test]
async fn rows_84_85_and_87_roles_may_what_they_may() {
    for site in Site::both(&[]) {
        let payment = site.paid().await;
        let refund = format!("/payments/{}/refund", payment["id"].as_str().unwrap());
        for (role, creates, refunds, administers) in [
            ("admin", 201, 200, 200),
            ("finance", 403, 200, 403),
            ("service", 201, 403, 403),
            ("readonly", 403, 403, 403),
        ] {
            let (status, made) =
                site.send(Method::POST, "/api-keys", &json!({"role": role, "name": role})).await;
            assert_eq!(status, 201, "{made}");
            let key = made["key"].as_str().unwrap();
            let ask = |method: Method, path: &str, body: &Value| {
                client()
                    .request(method, site.serving.api(path))
                    .header("x-api-key", key)
                    .json(body)
                    .send()
            };
            assert_eq!(
                ask(Method::POST, "/payments", &order()).await.unwrap().status(),
                creates,
                "{role}"
            );
            let answer = ask(Method::PATCH, &refund, &json!({"amount": "1.00"})).await.unwrap();
            assert_eq!(answer.status(), refunds, "{role}");
            if refunds == 403 {
                assert_eq!(
                    answer.json::<Value>().await.unwrap()["error"],
                    "Insufficient permissions"
                );
            }
            assert_eq!(
                ask(Method::GET, "/api-keys", &Value::Null).await.unwrap().status(),
                administers,
                "{role}"
            );
        }
    }
}

#[tokio::test]
async fn row_86_refunds_by_either_address_and_only_once_a_key() {
    for site in Site::both(&[]) {
        let payment = site.paid().await;
        let id = payment["id"].as_str().unwrap();
        let refund = |method: Method, path: String, key: &'static str| {
            let body = json!({"amount": "10.00"});
            site.request(method, &path).header("idempotency-key", key).json(&body).send()
        };
        let first = refund(Method::PATCH, format!("/payments/{id}/refund"), "r-1").await.unwrap();
        assert_eq!(first.status(), 200);
        let first = first.text().await.unwrap();
        let again = refund(Method::PATCH, format!("/payments/{id}/refund"), "r-1").await.unwrap();
        assert_eq!(header(&again, "idempotent-replayed"), "true");
        assert_eq!(again.text().await.unwrap(), first);
        let other = refund(Method::POST, format!("/payments/{id}/refunds"), "r-2").await.unwrap();
        assert_eq!(other.status(), 200);
        let now = site.get(&format!("/payments/{id}")).await;
        assert_eq!(
            (&now["refunded_minor"], &now["status"]),
            (&json!(2000), &json!("partially_refunded"))
        );
    }
}

#[tokio::test]
async fn row_88_a_freeze_stops_changes_and_lets_reads_go_on() {
    let site = Site::on_postgres(&[]);
    let payment = site.paid().await;
    site.pgw.run(&["incident", "freeze", "--reason", "intruder"]).ok();
    let frozen = loop {
        // Other processes know with the hint, or within seconds.
        let answer = site.request(Method::POST, "/payments").json(&order()).send().await.unwrap();
        if answer.status() != 201 {
            break answer;
        }
    };
    assert_eq!(frozen.status(), 503);
    assert!(!header(&frozen, "retry-after").is_empty());
    let text = frozen.text().await.unwrap();
    assert!(!text.contains("intruder"), "{text}");
    site.get(&format!("/payments/{}", payment["id"].as_str().unwrap())).await;
    site.pgw.run(&["incident", "unfreeze"]).ok();
}

#[tokio::test]
async fn row_90_keys_made_since_a_time_are_revoked_and_kept() {
    let site = Site::on_postgres(&[]);
    let old = site.key.clone();
    let since = site.get("/api-keys").await["data"][0]["created_at"].as_str().unwrap().to_owned();
    let (_, made) =
        site.send(Method::POST, "/api-keys", &json!({"role": "admin", "name": "intruder"})).await;
    let stolen = made["key"].as_str().unwrap();
    let after = made["created_at"].as_str().unwrap();
    assert!(since.as_str() < after);
    let done = site
        .pgw
        .run(&["keys", "revoke-since", after, "--reason", "stolen laptop", "--json"])
        .ok()
        .json();
    assert_eq!(done[0]["revoked"], 1);
    let with = |key: &str| {
        client().get(site.serving.api("/payments")).header("x-api-key", key.to_owned()).send()
    };
    while with(stolen).await.unwrap().status() != 403 {}
    assert_eq!(with(&old).await.unwrap().status(), 200, "the honest key stays");
    let listed = site.get("/api-keys").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 2, "the evidence stays");
}

#[tokio::test]
async fn row_91_the_audit_log_is_asked_by_range_actor_action_and_object() {
    let site = Site::on_postgres(&[]);
    let payment = site.paid().await;
    let id = payment["id"].as_str().unwrap();
    let rows = site
        .pgw
        .run(&["audit", "query", "--action", "payment.create", "--object", id, "--json"])
        .ok()
        .json();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let over_http = site.get(&format!("/audit-log?object={id}&action=payment.create")).await;
    assert_eq!(over_http["data"][0]["id"], rows[0]["id"]);
    for fact in ["actor", "action", "created_at", "outcome", "origin"] {
        assert!(rows[0].get(fact).is_some(), "{fact}: {}", rows[0]);
    }
    let verified = site.pgw.run(&["audit", "verify", "--json"]).ok().json();
    assert_eq!(verified[0]["intact"], true);
    let schema = site.pgw.variable("PGW_SCHEMA").to_owned();
    loop {
        let verified = site.pgw.run(&["audit", "verify", "--json"]).ok().json();
        if verified[0]["unsealed"] == 0 {
            break;
        }
        std::thread::yield_now();
    }
    crate::operating::execute(
        &site.pgw,
        &format!(
            "update {schema}.audit set action = 'payment.cancel' where action = 'payment.create'"
        ),
    );
    let tampered = site.pgw.run(&["audit", "verify", "--json"]);
    assert_eq!(tampered.code, 5, "{}", tampered.out);
    assert!(tampered.err.contains("was changed after it was sealed"), "{}", tampered.err);
}

#[tokio::test]
async fn row_92_an_address_is_denied_before_it_is_asked_for_a_key() {
    let site = Site::on_postgres(&[("PGW_TRUSTED_PROXIES", "127.0.0.1/32")]);
    site.pgw.run(&["incident", "block", "203.0.113.0/24", "--reason", "scans"]).ok();
    let from = |address: &'static str| {
        client()
            .get(site.serving.api("/payments"))
            .header("x-api-key", &site.key)
            .header("x-forwarded-for", address)
            .send()
    };
    while from("203.0.113.9").await.unwrap().status() != 403 {}
    assert_eq!(from("203.0.114.9").await.unwrap().status(), 200);
    site.pgw.run(&["incident", "unblock", "203.0.113.0/24"]).ok();
    while from("203.0.113.9").await.unwrap().status() != 200 {}
}

#[tokio::test]
async fn rows_93_and_104_the_report_says_what_was_touched_and_when_to_notify() {
    let site = Site::on_postgres(&[]);
    let payment = site.paid().await;
    let from = payment["created_at"].as_str().unwrap();
    let report = site.pgw.run(&[
        "incident",
        "report",
        "--from",
        from,
        "--aware",
        "2026-01-31T12:00:00Z",
        "--json",
    ]);
    let report = report.ok().json().remove(0);
    assert_eq!(report["customers_affected"], json!(["cus_42"]));
    assert_eq!(report["gdpr_article_33"]["notify_by"], "2026-02-03T12:00:00.000000Z");
    assert!(report["payments_touched"].as_array().unwrap().contains(&payment["id"]));
    assert!(report["actors"].as_object().unwrap().keys().any(|actor| actor.starts_with("key_")));
}

#[tokio::test]
async fn row_95_card_numbers_are_refused_and_order_numbers_are_not() {
    for site in Site::both(&[]) {
        for text in ["4242424242424242", "card 4242 4242 4242 4242", "5555-5555-5555-4444"] {
            let mut order = order();
            order["description"] = json!(text);
            let (status, problem) = site.send(Method::POST, "/payments", &order).await;
            assert_eq!(status, 400);
            // More than the four digits that an id may have by chance.
            assert!(!problem.to_string().contains(&text[..9]), "{problem}");
        }
        let mut order = order();
        order["description"] = json!("order 1700000000000");
        assert_eq!(site.send(Method::POST, "/payments", &order).await.0, 201);
    }
}

#[tokio::test]
async fn rows_107_and_108_failed_webhooks_are_listed_and_sent_again() {
    // The first try fails, and the policy allows no second.
    let site = Site::on_postgres(&[
        ("WEBHOOK_RETRY_MAX", "0"),
        ("PGW_WEBHOOK_ALLOW_HTTP", "true"),
        ("PGW_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8"),
    ]);
    let (_closed, port) = closed_port();
    let url = format!("http://127.0.0.1:{port}/hook");
    let hook = json!({"url": url, "event_types": ["payment.succeeded"]});
    assert_eq!(site.send(Method::POST, "/webhook-endpoints", &hook).await.0, 201);
    site.paid().await;
    let failed = loop {
        let page = site.get("/webhook-events?status=failed&limit=10").await;
        if let Some(one) = page["data"].as_array().unwrap().first() {
            break one.clone();
        }
    };
    let id = failed["id"].as_str().unwrap();
    let listed = site.pgw.run(&["webhooks", "list", "--status", "failed", "--json"]).ok().json();
    assert_eq!(listed[0]["id"], failed["id"]);
    let attempts = site.get(&format!("/webhook-events/{id}/attempts")).await;
    assert_eq!(attempts["data"][0]["error"], "connect");
    let dry = site.pgw.run(&["webhooks", "retry", "--all", "--dry-run", "--json"]).ok().json();
    assert_eq!((&dry[0]["matched"], &dry[0]["retried"]), (&json!(1), &json!(0)));
    site.pgw.run(&["webhooks", "retry", id]).ok();
    loop {
        let now = site.get(&format!("/webhook-events/{id}")).await;
        if now["attempts"] == 2 && now["status"] == "failed" {
            break;
        }
    }
}

#[tokio::test]
async fn rows_28_and_111_the_queue_is_measured() {
    let site = Site::on_postgres(&[]);
    site.paid().await;
    let metrics = loop {
        let text =
            client().get(site.serving.root("/metrics")).send().await.unwrap().text().await.unwrap();
        if text.contains("pgw_queue_jobs{") {
            break text;
        }
    };
    for name in [
        "pgw_events_total{type=\"payment.created\"}",
        "pgw_queue_oldest_seconds",
        "pgw_pool_connections",
        "pgw_http_requests_total",
        "pgw_processor_calls_total",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert!(
        !metrics.contains("ada") && !metrics.contains("cus_42") && !metrics.contains("pay_"),
        "{metrics}"
    );
}
