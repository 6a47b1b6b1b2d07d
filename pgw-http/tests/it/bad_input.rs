//! Every way in which a member can be wrong: each gets the documented error, echoes nothing, and changes nothing. What is wrong
//! whatever the route is in `matrix.rs`.

use axum::http::StatusCode;

use crate::harness::{App, Ask, Reply, payment, stranger};

/// What no answer may show: the values that were submitted.
const MARKER: &str = "7777";
/// Visa's test number.
const CARD: &str = "4111 1111 1111 1111";

/// Objects for requests to be about, and a storage that must stay as it is.
pub(crate) struct Bed {
    pub(crate) app: App,
    /// Paid 49.99 USD.
    paid: String,
    /// Holds 49.99 USD.
    held: String,
    pub(crate) endpoint: String,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        let app = App::new().await;
        let worker = app.work();
        let endpoint = app.endpoint("https://hooks.example/in").await;
        let paid = app.pay("").await;
        let held = app.pay("\"capture\":\"manual\",").await;
        worker.shutdown().await;
        Self { app, paid, held, endpoint }
    }

    /// Asks, and asserts that nothing changed.
    pub(crate) async fn refused(&self, ask: Ask<'_>) -> Reply {
        let before = self.app.storage.dump();
        // A minted request id could hold the marker by chance.
        let reply = ask.with("x-request-id", "rq").await_reply().await;
        assert!(self.app.storage.dump() == before, "it changed something: {reply:?}");
        let shown = String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(!shown.contains(MARKER) && !shown.contains("1111"), "it echoes: {shown}");
        reply
    }

    /// Asserts a 400 with exactly this one fault of the body.
    pub(crate) async fn fault(&self, ask: Ask<'_>, path: &str, code: &str) {
        let reply = self.refused(ask).await;
        let errors = reply.problem(400, "Validation failed");
        assert_eq!(errors, [(path.to_owned(), "body".to_owned(), code.to_owned())], "{reply:?}");
    }

    fn pay(&self, body: impl Into<axum::body::Bytes>) -> Ask<'_> {
        self.app.post("/payments", body)
    }
}

#[tokio::test(start_paused = true)]
async fn amounts_of_a_payment() {
    let bed = Bed::new().await;
    for (amount, code) in [
        ("77.777", "too_precise"),
        ("77.77000000000000000001", "too_precise"),
        ("-7777", "negative"),
        ("-0.01", "negative"),
        ("0", "too_small"),
        ("0.00", "too_small"),
        ("77777777777777777", "too_large"),
        ("1e7777", "too_large"),
        ("10000000000000.00", "too_large"),
        ("\"7777,77\"", "malformed"),
        ("\"0x7777\"", "malformed"),
        ("\" 7777\"", "malformed"),
        ("\"NaN\"", "malformed"),
        ("\"\"", "malformed"),
        ("true", "invalid_type"),
        ("[7777]", "invalid_type"),
        ("{\"a\":7777}", "invalid_type"),
        ("null", "required"),
    ] {
        let ask = bed.pay(payment("").replace("49.99", amount));
        bed.fault(ask, "amount", code).await;
    }
    bed.fault(
        bed.pay(payment("").replace("49.99", "7777.1").replace("USD", "JPY")),
        "amount",
        "too_precise",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn amounts_of_captures_and_refunds() {
    let bed = Bed::new().await;
    let (capture, refund) =
        (format!("/payments/{}/capture", bed.held), format!("/payments/{}/refund", bed.paid));
    for (amount, code) in [
        ("1.777", "too_precise"),
        ("-7777", "negative"),
        ("0", "too_small"),
        ("77777777777777777", "too_large"),
        ("\"7777x\"", "malformed"),
        ("true", "invalid_type"),
    ] {
        let body = format!("{{\"amount\":{amount}}}");
        bed.fault(bed.app.post(&capture, body.clone()), "amount", code).await;
        bed.fault(bed.app.patch(&refund, body), "amount", code).await;
    }
    for ask in
        [bed.app.post(&capture, "{\"amount\":50}"), bed.app.patch(&refund, "{\"amount\":\"50\"}")]
    {
        let reply = bed.refused(ask).await;
        let errors = reply.problem(422, "Amount above what is left");
        assert_eq!(errors, [("amount".to_owned(), "body".to_owned(), "above_rest".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn members_of_a_payment() {
    let bed = Bed::new().await;
    let long = "7".repeat(3_000);
    for (member, value, code) in [
        ("description", format!("\"{long}\""), "too_long"),
        ("description", "\"a\\u00007777\"".to_owned(), "control_character"),
        ("description", "\"a\\n7777\"".to_owned(), "control_character"),
        ("description", "\"\\ud800 7777\"".to_owned(), "malformed"),
        ("description", "7777".to_owned(), "invalid_type"),
        ("description", "{\"a\":7777}".to_owned(), "invalid_type"),
        ("customer_id", format!("\"{long}\""), "too_long"),
        ("customer_id", "7777".to_owned(), "invalid_type"),
        ("payment_method", format!("\"{long}\""), "too_long"),
        ("payment_method", "[]".to_owned(), "invalid_type"),
        ("metadata", "[7777]".to_owned(), "invalid_type"),
        ("metadata", "{\"a\":7777}".to_owned(), "invalid_type"),
        ("metadata", format!("{{\"a\":\"{long}\"}}"), "too_long"),
        ("metadata", format!("{{\"{long}\":\"a\"}}"), "too_long"),
        ("metadata", "{\"a\":\"1\",\"a\":\"2\"}".to_owned(), "duplicate_key"),
        ("capture", "\"7777\"".to_owned(), "unknown_value"),
        ("capture", "true".to_owned(), "invalid_type"),
        ("expires_in", "59".to_owned(), "out_of_range"),
        ("expires_in", "77777777".to_owned(), "out_of_range"),
        ("expires_in", "-7777".to_owned(), "invalid_type"),
        ("expires_in", "77.5".to_owned(), "invalid_type"),
        ("expires_in", "\"7777\"".to_owned(), "invalid_type"),
    ] {
        let ask = bed.pay(payment(&format!("\"{member}\":{value},")));
        bed.fault(ask, member, code).await;
    }
    let pairs: Vec<_> = (0..51).map(|n| format!("\"k{n}\":\"7777\"")).collect();
    let ask = bed.pay(payment(&format!("\"metadata\":{{{}}},", pairs.join(","))));
    bed.fault(ask, "metadata", "too_many_pairs").await;
    for (from, to, path, code) in [
        ("\"USD\"", "\"ZZZ\"", "currency", "unknown_currency"),
        ("\"USD\"", "\"US\"", "currency", "unknown_currency"),
        ("\"USD\"", "7777", "currency", "invalid_type"),
        ("ada@example.com", "7777", "customer_email", "invalid_email"),
        ("\"ada@example.com\"", "7777", "customer_email", "invalid_type"),
        ("\"ada@example.com\"", "null", "customer_email", "required"),
        ("Ada Lovelace", "", "customer_name", "empty"),
        ("Ada Lovelace", &long, "customer_name", "too_long"),
        ("\"Ada Lovelace\"", "[]", "customer_name", "invalid_type"),
    ] {
        bed.fault(bed.pay(payment("").replace(from, to)), path, code).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_missing_member_is_named_at_once() {
    let bed = Bed::new().await;
    for body in ["{}", ""] {
        let errors = bed.refused(bed.pay(body)).await.problem(400, "Validation failed");
        let mut named: Vec<_> = errors.iter().map(|(path, _, code)| (&**path, &**code)).collect();
        named.sort_unstable();
        let expected = ["amount", "currency", "customer_email", "customer_name"];
        assert_eq!(named, expected.map(|path| (path, "required")));
    }
}

#[tokio::test(start_paused = true)]
async fn card_numbers_in_every_text() {
    let bed = Bed::new().await;
    for card in [CARD, "4111-1111-1111-1111", "x 4111111111111111 x"] {
        let fault = |ask, path| bed.fault(ask, path, "card_number");
        fault(bed.pay(payment("").replace("Ada Lovelace", card)), "customer_name").await;
        fault(bed.pay(payment(&format!("\"description\":\"{card}\","))), "description").await;
        fault(bed.pay(payment(&format!("\"metadata\":{{\"a\":\"{card}\"}},"))), "metadata").await;
        let refund = format!("/payments/{}/refund", bed.paid);
        fault(bed.app.patch(&refund, format!("{{\"reason\":\"{card}\"}}")), "reason").await;
        let resolve = format!(
            "{{\"operation\":\"op_00000000000000000000000000\",\"outcome\":\"failed\",\"reason\":\"{card}\"}}"
        );
        let path = format!("/payments/{}/resolve", bed.paid);
        fault(bed.app.post(&path, resolve), "reason").await;
        let endpoint = format!("{{\"url\":\"https://a.example/\",\"description\":\"{card}\"}}");
        fault(bed.app.post("/webhook-endpoints", endpoint), "description").await;
        let path = format!("/webhook-endpoints/{}", bed.endpoint);
        fault(bed.app.patch(&path, format!("{{\"description\":\"{card}\"}}")), "description").await;
    }
    let card = "4111111111111111";
    for (extra, path) in [
        (format!("\"customer_id\":\"{card}\","), "customer_id"),
        (format!("\"payment_method\":\"{card}\","), "payment_method"),
        (format!("\"metadata\":{{\"{card}\":\"a\"}},"), "metadata"),
    ] {
        bed.fault(bed.pay(payment(&extra)), path, "card_number").await;
    }
    let email = payment("").replace("ada@", &format!("{card}@"));
    bed.fault(bed.pay(email), "customer_email", "card_number").await;
}

#[tokio::test(start_paused = true)]
async fn members_of_an_endpoint() {
    let bed = Bed::new().await;
    let long = format!("https://a.example/{}", "7".repeat(2_000));
    for (url, code) in [
        ("7777", "invalid_url"),
        ("ftp://7777.example/", "invalid_url"),
        ("https://u:7777@a.example/", "invalid_url"),
        ("https://a.example/#7777", "invalid_url"),
        (&*long, "invalid_url"),
        ("http://a.example/7777", "scheme_denied"),
        ("https://127.0.0.1/7777", "address_denied"),
        ("https://[::1]/7777", "address_denied"),
        ("https://169.254.169.254/7777", "address_denied"),
        ("https://localhost/7777", "address_denied"),
        ("https://a.example:22/7777", "port_denied"),
    ] {
        let body = format!("{{\"url\":\"{url}\"}}");
        bed.fault(bed.app.post("/webhook-endpoints", body.clone()), "url", code).await;
        let path = format!("/webhook-endpoints/{}", bed.endpoint);
        bed.fault(bed.app.patch(&path, body), "url", code).await;
    }
    let many: Vec<_> = (0..33).map(|_| "\"*\"").collect();
    for (member, value, path, code) in [
        ("event_types", "\"*\"", "event_types", "invalid_type"),
        ("event_types", "[7777]", "event_types", "invalid_type"),
        ("event_types", "[\"*\",\"7777\"]", "event_types[1]", "unknown_value"),
        ("event_types", &format!("[{}]", many.join(",")), "event_types", "too_many"),
        ("signature_profiles", "[]", "signature_profiles", "empty"),
        ("signature_profiles", "[\"7777\"]", "signature_profiles[0]", "unknown_value"),
    ] {
        let body = format!("{{\"url\":\"https://a.example/\",\"{member}\":{value}}}");
        bed.fault(bed.app.post("/webhook-endpoints", body), path, code).await;
    }
    let path = format!("/webhook-endpoints/{}", bed.endpoint);
    bed.fault(bed.app.patch(&path, "{\"status\":\"deleted\"}"), "status", "unknown_value").await;
}

#[tokio::test(start_paused = true)]
async fn members_of_a_bulk_retry() {
    let bed = Bed::new().await;
    for (body, path, code) in [
        ("{}", "filter", "required"),
        ("{\"filter\":null}", "filter", "required"),
        ("{\"filter\":7777}", "filter", "invalid_type"),
        ("{\"filter\":[]}", "filter", "invalid_type"),
        ("{\"filter\":{\"status\":\"7777\"}}", "filter.status", "unknown_value"),
        ("{\"filter\":{\"status\":7777}}", "filter.status", "invalid_type"),
        ("{\"filter\":{\"endpoint_id\":\"7777\"}}", "filter.endpoint_id", "invalid_id"),
        ("{\"filter\":{\"event_type\":\"7777\"}}", "filter.event_type", "unknown_value"),
        ("{\"filter\":{\"created_from\":\"7777\"}}", "filter.created_from", "invalid_time"),
        ("{\"filter\":{\"created_before\":\"7777\"}}", "filter.created_before", "invalid_time"),
        ("{\"filter\":{\"zzz\":7777}}", "filter.zzz", "unknown"),
        ("{\"filter\":{\"<7777>\":1}}", "filter", "unknown"),
        ("{\"filter\":{\"status\":\"failed\",\"status\":\"7777\"}}", "filter", "duplicate"),
        ("{\"filter\":{},\"dry_run\":7777}", "dry_run", "invalid_type"),
        ("{\"filter\":{},\"after\":\"7777\"}", "after", "invalid_cursor"),
    ] {
        bed.fault(bed.app.post("/webhook-events/retry", body), path, code).await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_of_a_recovery() {
    let bed = Bed::new().await;
    let path = format!("/webhook-endpoints/{}/recover", bed.endpoint);
    for (body, member, code) in [
        ("{}", "since", "required"),
        ("{\"since\":null}", "since", "required"),
        ("{\"since\":\"7777\"}", "since", "invalid_time"),
        ("{\"since\":7777}", "since", "invalid_type"),
        ("{\"since\":\"2026-01-01T00:00:00Z\",\"after\":\"7777\"}", "after", "invalid_cursor"),
    ] {
        bed.fault(bed.app.post(&path, body), member, code).await;
    }
    let since = "{\"since\":\"2026-01-01T00:00:00Z\"}";
    for id in ["7777", &bed.paid, "we_00000000000000000000000000"] {
        let ask = bed.app.post(&format!("/webhook-endpoints/{id}/recover"), since);
        bed.refused(ask).await.problem(404, "Not found");
    }
}

#[tokio::test(start_paused = true)]
async fn members_of_a_rotation() {
    let bed = Bed::new().await;
    let path = format!("/webhook-endpoints/{}/rotate-secret", bed.endpoint);
    for (value, code) in [
        ("604801", "out_of_range"),
        ("18446744073709551615", "out_of_range"),
        ("18446744073709551616", "invalid_type"),
        ("-7777", "invalid_type"),
        ("7777.5", "invalid_type"),
        ("\"7777\"", "invalid_type"),
    ] {
        let body = format!("{{\"expires_in\":{value}}}");
        bed.fault(bed.app.post(&path, body), "expires_in", code).await;
    }
    for id in ["7777", &bed.paid, "we_00000000000000000000000000"] {
        let ask = bed.app.post(&format!("/webhook-endpoints/{id}/rotate-secret"), "{}");
        bed.refused(ask).await.problem(404, "Not found");
    }
}

#[tokio::test(start_paused = true)]
async fn tests_of_endpoints_that_are_not_there_or_disabled() {
    let bed = Bed::new().await;
    for id in ["7777", &bed.paid, "we_00000000000000000000000000"] {
        let ask = bed.app.post(&format!("/webhook-endpoints/{id}/test"), "{}");
        bed.refused(ask).await.problem(404, "Not found");
    }
    let path = format!("/webhook-endpoints/{}", bed.endpoint);
    let disabled = bed.app.patch(&path, "{\"status\":\"disabled\"}").await_reply().await;
    assert_eq!(disabled.status, StatusCode::OK);
    let reply = bed.refused(bed.app.post(&format!("{path}/test"), "")).await;
    reply.problem(409, "Conflict");
    assert_eq!(reply.header("retry-after"), None);
}

#[tokio::test(start_paused = true)]
async fn queries() {
    let bed = Bed::new().await;
    for list in [
        "/payments",
        "/refunds",
        "/webhook-endpoints",
        "/webhook-events",
        "/api-keys",
        "/ip-denylist",
    ] {
        for (query, path, code) in [
            ("limit=0", "limit", "out_of_range"),
            ("limit=101", "limit", "out_of_range"),
            ("limit=7777x", "limit", "out_of_range"),
            ("after=7777", "after", "invalid_cursor"),
            ("before=7777", "before", "invalid_cursor"),
            ("zzz7777=1", "", "unknown"),
            ("limit=1&limit=2", "", "duplicate"),
        ] {
            let reply = bed.refused(bed.app.get(&format!("{list}?{query}"))).await;
            let errors = reply.problem(400, "Validation failed");
            assert_eq!(
                errors,
                [(path.to_owned(), "query".to_owned(), code.to_owned())],
                "{list} {query}"
            );
        }
    }
    for (path, code) in [
        ("/payments?status=7777", "unknown_value"),
        ("/payments?currency=7777", "unknown_currency"),
        ("/payments?customer_id=4111111111111111", "card_number"),
        ("/payments?created_from=7777", "invalid_time"),
        ("/payments?idempotency_key=", "invalid_key"),
        ("/refunds?payment_id=7777", "invalid_id"),
        ("/webhook-events?status=7777", "unknown_value"),
        ("/webhook-events?endpoint_id=7777", "invalid_id"),
        ("/webhook-events?event_type=7777", "unknown_value"),
        (&format!("/payments/{}?zzz=1", bed.paid), "unknown"),
    ] {
        let reply = bed.refused(bed.app.get(path)).await;
        assert_eq!(reply.problem(400, "Validation failed")[0].2, code, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn ids_that_name_nothing() {
    let bed = Bed::new().await;
    let pay = "pay_00000000000000000000000000";
    for id in ["7777", "%ff", "..%2f", pay, &bed.endpoint, &bed.paid.to_uppercase()] {
        for verb in ["", "/events", "/operations"] {
            let reply = bed.refused(bed.app.get(&format!("/payments/{id}{verb}"))).await;
            reply.problem(404, "Not found");
        }
        for verb in ["confirm", "capture", "cancel", "refunds"] {
            let ask = bed.app.post(&format!("/payments/{id}/{verb}"), "{}");
            bed.refused(ask).await.problem(404, "Not found");
        }
    }
    // A charge is an operation, not a refund.
    let operations = bed.app.get(&format!("/payments/{}/operations", bed.paid)).await_reply().await;
    let charge = operations.json()["data"][0]["id"].as_str().unwrap().replace("op_", "ref_");
    bed.refused(bed.app.get(&format!("/refunds/{charge}"))).await.problem(404, "Not found");
}

#[tokio::test(start_paused = true)]
async fn moves_that_the_state_does_not_allow() {
    let bed = Bed::new().await;
    let operations = bed.app.get(&format!("/payments/{}/operations", bed.paid)).await_reply().await;
    let charge = operations.json()["data"][0]["id"].clone();
    let resolve = format!("{{\"operation\":{charge},\"outcome\":\"failed\",\"reason\":\"x\"}}");
    for (id, verb, body) in [
        (&bed.paid, "capture", "{}"),
        (&bed.paid, "cancel", "{}"),
        (&bed.paid, "confirm", "{}"),
        (&bed.paid, "resolve", &*resolve),
        (&bed.held, "refunds", "{}"),
        (&bed.held, "confirm", "{}"),
    ] {
        let reply =
            bed.refused(bed.app.post(&format!("/payments/{id}/{verb}"), body.to_owned())).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{verb} {reply:?}");
        reply.problem(409, "Conflict");
        assert_eq!(reply.header("retry-after"), None);
    }
}

#[tokio::test]
async fn live_mode_wants_a_method_and_a_processor() {
    let app = App::new().await;
    let mut scope = stranger();
    scope.mode = pgw_core::scope::Mode::Live;
    let key = crate::harness::new_key(&app.gateway, scope, pgw_core::access::Role::Admin).await;
    let reply = app.post("/payments", payment("")).with("x-api-key", &key).await_reply().await;
    let errors = reply.problem(400, "Validation failed");
    assert_eq!(errors, [("payment_method".into(), "body".into(), "required".into())]);
    let body = payment("\"payment_method\":\"tok_visa\",");
    let reply = app.post("/payments", body).with("x-api-key", &key).await_reply().await;
    reply.problem(409, "Conflict");
}
