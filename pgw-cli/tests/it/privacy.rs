//! Personal data over HTTP and from the command line: rows 100 to 102 and 105 of the seed.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::command::{Pgw, Serving, client};

const MARKS: [&str; 4] = ["mk9mail", "Mk9name", "mk9id", "mk9text"];

async fn pay(serving: &Serving, key: &str) -> Value {
    let order = json!({
        "amount": "49.99", "currency": "USD", "customer_email": "mk9mail@example.com",
        "customer_name": "Mk9name", "customer_id": "mk9id", "description": "=mk9text()",
    });
    let request = client().post(serving.api("/payments")).header("x-api-key", key);
    let answer = request.header("prefer", "wait=20").json(&order).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.json().await.unwrap()
}

async fn get(serving: &Serving, key: &str, path: &str) -> (u16, String) {
    let answer = client().get(serving.api(path)).header("x-api-key", key).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The whole schema as text.
fn dump(pgw: &Pgw) -> String {
    let schema = pgw.variable("PGW_SCHEMA");
    let done = Command::new("sh")
        .arg("-c")
        .arg("PATH=\"$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -1)\"; exec pg_dump --data-only --schema=\"$0\" \"$1\"")
        .args([schema, pgw.variable("DATABASE_URL")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // Bodies are dumped in hexadecimal.
    let text = String::from_utf8(done.stdout).unwrap();
    let mut all = text.clone();
    for cell in text.split(['\t', '\n']) {
        if let Some(hex) = cell.strip_prefix("\\\\x") {
            let bytes = (0..hex.len() / 2)
                .filter_map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok());
            all.push_str(&String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()));
        }
    }
    all
}

#[tokio::test]
async fn rows_100_and_105_an_erased_customer_is_nowhere_and_the_money_is() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    let payment = pay(&serving, &key).await;
    let path = format!("/payments/{}", payment["id"].as_str().unwrap());
    let before = dump(&pgw);
    assert!(MARKS.iter().all(|mark| before.contains(mark)));

    let erased = client()
        .delete(serving.api("/customers/mk9id"))
        .header("x-api-key", &key)
        .send()
        .await
        .unwrap();
    assert_eq!(erased.status(), 202);
    let erasure: Value = erased.json().await.unwrap();
    let (_, shown) = get(&serving, &key, &path).await;
    assert!(shown.contains("redacted@example.com") && shown.contains("Redacted"), "{shown}");
    assert!(MARKS.iter().all(|mark| !shown.contains(mark)), "{shown}");
    let id = erasure["id"].as_str().unwrap();
    loop {
        let found = pgw.run(&["privacy", "erasures", id, "--json"]).ok().json();
        if found[0]["state"] == "done" {
            break;
        }
    }
    let after = dump(&pgw);
    for mark in MARKS {
        assert!(!after.contains(mark), "{mark}");
    }
    let (_, kept) = get(&serving, &key, &path).await;
    let kept: Value = serde_json::from_str(&kept).unwrap();
    for member in ["id", "amount_minor", "captured_minor", "currency", "status", "created_at"] {
        assert_eq!(kept[member], payment[member], "{member}");
    }
    // Once more is the same erasure.
    let again = pgw.run(&["privacy", "erase", "mk9id", "--json"]).ok().json();
    assert_eq!(again[0]["id"], erasure["id"]);
}

#[tokio::test]
async fn row_101_an_export_has_everything_and_starts_no_formula() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    pay(&serving, &key).await;
    let (status, exported) = get(&serving, &key, "/customers/mk9id/export").await;
    assert_eq!(status, 200);
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let text = exported.to_string();
    assert!(MARKS.iter().all(|mark| text.contains(mark)), "{text}");
    let csv = pgw.run(&["privacy", "export", "mk9id", "--format", "csv"]).ok().out;
    assert!(csv.contains("'=mk9text()") && !csv.contains(",=mk9text()"), "{csv}");
    assert_eq!(pgw.run(&["privacy", "export", "nobody"]).code, 4);

    // A file is there when it is whole, for its owner, and never in the place of another.
    let directory = std::env::temp_dir().join(format!("pgw-export-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("mk9.json");
    let to = path.to_str().unwrap();
    assert_eq!(pgw.run(&["privacy", "export", "nobody", "--output", to]).code, 4);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    pgw.run(&["privacy", "export", "mk9id", "--output", to]).ok();
    let whole = std::fs::read_to_string(&path).unwrap();
    let read: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(read["object"], "customer_export");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(pgw.run(&["privacy", "export", "mk9id", "--output", to]).code, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn row_102_consents_are_given_and_withdrawn_and_stay() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    let url = serving.api("/customers/mk9id/consents");
    let consent = json!({"purpose": "newsletter", "version": "2026-01", "source": "checkout"});
    let given = client().post(&url).header("x-api-key", &key).json(&consent).send().await.unwrap();
    assert_eq!(given.status(), 201);
    let url = format!("{url}/newsletter");
    let withdrawn = client().delete(url).header("x-api-key", &key).send().await.unwrap();
    assert_eq!(withdrawn.status(), 200);
    let shown = pgw.run(&["privacy", "consents", "mk9id", "--json"]).ok().json();
    assert_eq!(shown[0]["purpose"], "newsletter");
    assert!(shown[0]["withdrawn_at"].is_string(), "{shown:?}");
}

#[tokio::test]
async fn row_65_who_was_erased_is_erased_again_after_a_restore() {
    let pgw = Pgw::on_postgres();
    let key = pgw.key("admin");
    let serving = pgw.serve(&[]);
    pay(&serving, &key).await;
    let schema = pgw.variable("PGW_SCHEMA").to_owned();
    pgw.run(&["privacy", "erase", "mk9id", "--wait"]).ok();
    let log = pgw.run(&["privacy", "log"]).ok().out;
    assert_eq!(log.lines().count(), 1);
    assert!(MARKS.iter().all(|mark| !log.contains(mark)), "{log}");
    let file = std::env::temp_dir().join(format!("pgw-erasures-{}", std::process::id()));
    std::fs::write(&file, log).unwrap();
    // A backup from before the erasure: it knows the customer, and nothing of the erasure.
    crate::operating::execute(
        &pgw,
        &format!(
            "update {schema}.payments set customer_id = 'mk9id', customer_name = 'Mk9name', customer_email = 'mk9mail@example.com'; \
             delete from {schema}.erased_payments; delete from {schema}.erasures"
        ),
    );
    let done = pgw.run(&["privacy", "reapply", file.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!((&done[0]["erasures"], &done[0]["payments"]), (&json!(1), &json!(1)));
    std::fs::remove_file(file).unwrap();
    let (_, shown) = get(&serving, &key, "/payments").await;
    assert!(MARKS.iter().all(|mark| !shown.contains(mark)), "{shown}");
}
