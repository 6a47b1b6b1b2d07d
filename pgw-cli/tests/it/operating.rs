//! Operating: migrations, keys, doctor, status, webhooks and payments from the command line.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::command::{Pgw, Serving, client};

/// Runs SQL as the owner, with psql: what no command of ours would do.
pub(crate) fn execute(pgw: &Pgw, sql: &str) {
    let url = pgw.variable("DATABASE_URL");
    let done = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql, url])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Leaves the schema as a later version's migration does that lets this version work beside it.
pub(crate) fn migrate_later(pgw: &Pgw) {
    let table = format!("{}.migrations", pgw.variable("PGW_SCHEMA"));
    let later = format!(
        "insert into {table} (version, name, checksum, serves_from) select max(version) + 1, 'later', 'x', max(version) from {table}"
    );
    execute(pgw, &later);
}

#[test]
fn migrations_are_shown_run_once_and_exported() {
    let pgw = Pgw::on_empty_postgres();
    let early = pgw.run(&["status"]);
    assert_eq!(early.code, 1);
    assert!(early.err.contains("`pgw migrate`"), "{}", early.err);
    let pending = pgw.run(&["migrate", "--dry-run", "--json"]).ok().json();
    assert!(!pending[0]["pending"].as_array().unwrap().is_empty());
    let applied = pgw.run(&["migrate", "--json"]).ok().json();
    assert_eq!(applied[0]["applied"], pending[0]["pending"]);
    assert_eq!(pgw.run(&["migrate"]).ok().out.trim(), "the schema is up to date");
    // A later version's schema: this one works beside it where that says so.
    migrate_later(&pgw);
    pgw.run(&["status"]).ok();
    let looked = pgw.run(&["doctor"]).out;
    assert!(looked.contains("beside which this one works: 00"), "{looked}");
    let migrated = pgw.run(&["migrate"]).ok().out;
    assert!(migrated.trim().ends_with(" later"), "{migrated}");
    let schema = pgw.variable("PGW_SCHEMA");
    let strict =
        format!("update {schema}.migrations set serves_from = version where name = 'later'");
    execute(&pgw, &strict);
    let refused = pgw.run(&["status"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("works beside") && refused.err.contains("update pgw"),
        "{}",
        refused.err
    );
    let sql = Pgw::new().run(&["migrate", "--export"]).ok().out;
    assert!(sql.starts_with("begin;") && sql.contains("create table pgw.payments"));
    let grants = Pgw::new().run(&["migrate", "--export", "--grants", "own\"er", "app"]).ok().out;
    assert!(grants.contains("to \"own\"\"er\""), "names are quoted");
    let partitions = Pgw::new().run(&["migrate", "--export", "--partition", "8"]).ok().out;
    assert!(partitions.contains("partition by hash (merchant)"), "{partitions}");
    let refused = Pgw::new().run(&["migrate", "--export", "--partition", "7"]);
    assert!(refused.err.contains("no power of two"), "{}", refused.err);
    let citus = Pgw::new().run(&["migrate", "--export", "--citus"]).ok().out;
    assert!(citus.contains("create_distributed_table('pgw.payments', 'merchant'"), "{citus}");
}

async fn a_payment_goes_its_way(serving: &Serving, key: &str) {
    let order = serde_json::json!({"amount": "1.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A", "payment_method": "tok_visa"});
    let request = client().post(serving.api("/payments")).header("x-api-key", key);
    let paid = request.header("prefer", "wait=30").json(&order).send().await.unwrap();
    let paid: serde_json::Value = paid.json().await.unwrap();
    assert_eq!(paid["status"], "succeeded", "{paid}");
}

/// What a distributed engine is asked, any engine can answer: a payment goes its way.
#[tokio::test]
async fn the_distributed_profile_serves() {
    let pgw = Pgw::on_postgres().with("PGW_DB_ENGINE", "distributed");
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    a_payment_goes_its_way(&serving, &key).await;
    let wrong = Pgw::on_postgres().with("PGW_DB_ENGINE", "sharded").run(&["doctor"]);
    assert!(wrong.out.contains("must be single or distributed"), "{} {}", wrong.out, wrong.err);
}

#[tokio::test]
async fn behind_a_pooler_that_keeps_statements_a_payment_goes_its_way() {
    let owner = Pgw::on_postgres();
    let pooler = std::env::var("PGW_TEST_PGBOUNCER_PREPARED").expect("scripts/test sets it");
    let role = "do $$ begin create role pgw_prepared login; exception when duplicate_object then null; end $$";
    execute(&owner, role);
    let prepared = owner.clone().with("PGW_DB_POOLER", "prepared");
    for export in [&["--grants", "pgw", "pgw_prepared"][..], &["--settings", "pgw_prepared"]] {
        let sql = Pgw::new().with("PGW_SCHEMA", owner.variable("PGW_SCHEMA"));
        execute(&owner, &sql.run(&[&["migrate", "--export"], export].concat()).ok().out);
    }
    let app = prepared.clone().with("DATABASE_URL", &pooler);
    let app = app.with("PGW_DB_LISTEN_URL", owner.variable("DATABASE_URL"));
    let key = app.key("admin");
    let serving = app.serve(&[]);
    a_payment_goes_its_way(&serving, &key).await;

    let refused = prepared.run(&["keys", "list"]);
    assert!(refused.code == 2 && refused.err.contains("no pooler is there"), "{}", refused.err);
    // The owner purges, who has no such settings.
    let purged = prepared.run(&["purge"]);
    assert_eq!(purged.code, 0, "{}", purged.err);
    let wrong = owner.with("PGW_DB_POOLER", "maybe").run(&["keys", "list"]);
    assert!(wrong.err.contains("must be true, false or prepared"), "{}", wrong.err);
}

#[test]
fn the_doctor_looks_with_the_applications_own_eyes() {
    let pgw = Pgw::on_postgres();
    let looked = pgw.run(&["doctor", "--json"]);
    let findings = looked.json();
    let grade = |check: &str| {
        let found = findings.iter().find(|one| one["check"] == check);
        found.unwrap_or_else(|| panic!("{check}"))["grade"].as_str().unwrap().to_owned()
    };
    for check in ["database", "clock", "connections", "transactions", "schema", "pool"] {
        assert_eq!(grade(check), "ok", "{check}: {}", looked.out);
    }
    // The servers of tests do without fsync, which nobody's production may.
    assert_eq!(grade("durability"), "fail");
    assert_eq!(looked.code, 5);
    let wrong = pgw.clone().with("DATABASE_URL", "postgres://nobody:hunter2@127.0.0.1:1/x");
    let wrong = wrong.run(&["doctor"]);
    assert_eq!(wrong.code, 5);
    assert!(!format!("{}{}", wrong.out, wrong.err).contains("hunter2"));
}

#[test]
fn status_says_what_is_to_do() {
    let lanes = Pgw::on_postgres().run(&["status", "--json"]).ok().json();
    assert_eq!(lanes[0]["lane"], "operations");
    assert_eq!(lanes[1]["ready"], 0);
    assert_eq!(lanes[2]["object"], "unknown_payments");
}

#[test]
fn unknown_things_are_a_code_of_their_own() {
    let pgw = Pgw::on_postgres();
    let unknown = pgw.run(&["payments", "show", "pay_01h455vb4pex5vsknk084sn02q"]);
    assert_eq!(unknown.code, 4, "{}", unknown.err);
    assert_eq!(pgw.run(&["payments", "show", "nonsense"]).code, 2);
    assert_eq!(pgw.run(&["webhooks", "retry"]).code, 2, "nothing is replayed by mistake");
}

#[tokio::test]
async fn a_payment_is_shown_with_what_a_processor_is_asked_by() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("service");
    let serving = pgw.serve(&[]);
    let order = serde_json::json!({"amount": "5.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A"});
    let request = client().post(serving.api("/payments")).header("x-api-key", &key);
    let paid = request.header("prefer", "wait=30").json(&order).send().await.unwrap();
    let paid: serde_json::Value = serde_json::from_str(&paid.text().await.unwrap()).unwrap();
    assert_eq!(paid["status"], "succeeded");
    let id = paid["id"].as_str().unwrap();
    let charge = &pgw.run(&["payments", "show", id, "--json"]).ok().json()[1];
    let shown = pgw.run(&["payments", "show", id]).ok().out;
    let line = shown.lines().find(|line| line.starts_with(charge["id"].as_str().unwrap()));
    let line = line.unwrap_or_else(|| panic!("no operation in {shown}"));
    for member in ["type", "status", "processor_reference"] {
        assert!(line.contains(charge[member].as_str().unwrap()), "{member} in {line}");
    }
}

/// A refund that nobody knows of leaves its payment's status as it was, and its payment may be as old as it likes.
#[tokio::test]
async fn an_unknown_refund_is_counted_by_its_own_age() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    let order = serde_json::json!({"amount": "5.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A"});
    let post = async |path: &str, body: &serde_json::Value| {
        let request = client().post(serving.api(path)).header("x-api-key", &key);
        let answer = request.header("prefer", "wait=30").json(body).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()
    };
    let paid = post("/payments", &order).await;
    let id = paid["id"].as_str().unwrap();
    let refunds = format!("/payments/{id}/refunds");
    let refund = post(&refunds, &serde_json::json!({"amount": "2.00"})).await;
    assert_eq!((&paid["status"], &refund["status"]), (&"succeeded".into(), &"succeeded".into()));
    assert_eq!(pgw.run(&["status", "--json"]).ok().json()[2]["count"], 0);
    let lose = "update {schema}.payments set unknown_operations = 1, created_at = created_at - interval '30 days'; \
         update {schema}.operations set state = 'unknown', first_dispatched_at = now() - interval '2 hours' where kind = 'refund'";
    execute(&pgw, &lose.replace("{schema}", pgw.variable("PGW_SCHEMA")));
    let unknown = &pgw.run(&["status", "--json"]).ok().json()[2];
    assert_eq!((&unknown["count"], &unknown["more"]), (&1.into(), &false.into()));
    let hours = unknown["oldest_ms"].as_u64().unwrap() / 3_600_000;
    assert!((2..48).contains(&hours), "{unknown}");
    let list = |args: &[&str]| {
        pgw.run(&[&["payments", "list", "--json"], args].concat()).ok().json().len()
    };
    assert_eq!((list(&["--unknown"]), list(&["--status", "unknown"])), (1, 0));
}

#[test]
fn sealing_keys_rotate_and_lost_ones_are_told() {
    let pgw = Pgw::on_postgres();
    let done = pgw.run(&["crypto", "rotate", "--json"]).ok().json();
    assert_eq!((done[0]["resealed"].as_u64(), done[0]["lost"].as_u64()), (Some(0), Some(0)));
}

/// As Node's `createCipheriv('aes-256-gcm', …)` made them, which the seed calls.
#[test]
fn secrets_of_the_seed_open_line_by_line() {
    let key = std::env::temp_dir().join(format!("pgw-seed-key-{}", std::process::id()));
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let open = |lines: &str, args: &[&str]| {
        let all = ["crypto", "open-seed", "--key-file", key.to_str().unwrap()];
        let mut command = Pgw::new().command(&[&all, args].concat());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let first = "000102030405060708090a0b0c0d0e0f:91aee1c5ab22bd2796e2b6cefe744af08021d0cb8198:1db2a30d69146c26735035ce6b0efe81";
    let second = "ffeeddccbbaa99887766554433221100:18704c9ebc1e46:c4619072a87e493c05a50559c0c95d2a";
    let (code, out, _) = open(&format!("{first}\n{second}"), &[]);
    assert_eq!((code, &*out), (Some(0), "whsec_c2VlZCBzZWNyZXQ=\ngrüße\n"));
    let (_, out, _) = open(&format!("{second}\r\n"), &["--json"]);
    let line: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(line, serde_json::json!({"line": 1, "secret": "grüße"}));
    let (code, out, told) = open(&format!("{first}\n{}\n", second.replace("18", "19")), &[]);
    assert_eq!((code, out.lines().count()), (Some(1), 1));
    assert!(told.contains("line 2 cannot be opened: the envelope is not genuine here"), "{told}");
    std::fs::write(&key, "too short").unwrap();
    let (code, _, told) = open(first, &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("does not hold 32 bytes"), "{told}");
    std::fs::remove_file(&key).unwrap();
}

#[tokio::test]
async fn what_was_kept_long_enough_is_counted_dropped_and_gone() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    let order = serde_json::json!({"amount": "5.00", "currency": "USD", "customer_email": "a@example.com", "customer_name": "A"});
    for number in 0..3 {
        let request = client().post(serving.api("/payments")).header("x-api-key", &key);
        let request = request.header("idempotency-key", format!("order-{number}"));
        assert_eq!(request.json(&order).send().await.unwrap().status(), 201);
    }
    let sealed = || loop {
        let report = pgw.run(&["audit", "verify", "--json"]).ok().json().remove(0);
        if report["unsealed"] == 0 {
            break report["sealed"].as_u64().unwrap();
        }
    };
    sealed();
    // Another seal: the last one that is old stays, as the anchor.
    pgw.key("readonly");
    let rows = sealed();
    // The server drops answers as well, which is not what is looked at here.
    serving.stop();
    let told = |args: &[&str]| {
        let done = pgw.run(args);
        let value = done.json().remove(0);
        (done.code, value["answers"].as_u64().unwrap(), value["audit_rows"].as_u64().unwrap())
    };
    assert_eq!(told(&["purge", "--verify", "--json"]), (0, 0, 0), "nothing is old yet");
    let schema = pgw.variable("PGW_SCHEMA");
    execute(
        &pgw,
        &format!(
            "update {schema}.idempotency_keys set created_at = created_at - interval '25 hours' where key <> 'order-0'"
        ),
    );
    assert_eq!(told(&["purge", "--verify", "--json"]), (5, 2, 0));
    assert_eq!(told(&["purge", "--dry-run", "--json"]), (0, 2, 0));
    let later = pgw.clone().with("PGW_RETENTION_ANSWERS", "48h");
    assert_eq!(later.run(&["purge"]).ok().out.trim(), "0 stored answers and 0 audit rows are gone");
    assert_eq!(told(&["purge", "--json"]), (0, 2, 0));
    assert_eq!(pgw.run(&["purge", "--verify"]).ok().out.trim(), "0 overdue rows");
    let age = "update {schema}.audit_seals set sealed_at = sealed_at - interval '370 days'";
    execute(&pgw, &age.replace("{schema}", schema));
    let patient = pgw.clone().with("PGW_RETENTION_AUDIT_DAYS", "400");
    assert_eq!(patient.run(&["purge", "--verify"]).ok().out.trim(), "0 overdue rows");
    assert_eq!(told(&["purge", "--verify", "--json"]), (5, 0, rows));
    assert_eq!(told(&["purge", "--json"]), (0, 0, rows));
    assert_eq!(told(&["purge", "--verify", "--json"]), (0, 0, 0));
    for (name, value) in [("PGW_RETENTION_AUDIT_DAYS", "364"), ("PGW_RETENTION_ANSWERS", "23h")] {
        let wrong = pgw.clone().with(name, value).run(&["purge"]);
        assert_eq!(wrong.code, 2, "{}", wrong.err);
        assert!(wrong.err.contains("must be"), "{}", wrong.err);
    }
    assert_eq!(Pgw::new().run(&["purge"]).code, 2, "it needs a database");
}
