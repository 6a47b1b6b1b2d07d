//! The configuration: what is read, what is said of it, and what is never shown.

use crate::command::Pgw;

#[test]
fn help_teaches_and_promises_exit_codes() {
    let help = Pgw::new().run(&["--help"]).ok().out;
    for word in ["serve", "migrate", "doctor", "Exit codes", "DATABASE_URL"] {
        assert!(help.contains(word), "{word}");
    }
    assert_eq!(Pgw::new().run(&["no-such-command"]).code, 2);
    assert_eq!(Pgw::new().run(&["status"]).code, 2, "it needs a database");
    let unreachable = Pgw::new()
        .with("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/x")
        .with("PGW_API_KEY_PEPPER", &"p".repeat(32))
        .with("PGW_ENCRYPTION_KEYS", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        .run(&["status"]);
    assert_eq!(unreachable.code, 3);
    assert!(!unreachable.err.contains("hunter2"));
}

#[test]
fn secrets_are_masked_and_origins_named() {
    let pgw = Pgw::new()
        .with("DATABASE_URL", "postgres://pg_user:hunter2@db.internal/shop")
        .with("PGW_API_KEY_PEPPER", &"hunter2".repeat(5))
        .with("PGW_ENCRYPTION_KEYS", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        .with("RATIONALE_LIMIT", "7");
    let check = pgw.run(&["config", "check"]).ok();
    let said = format!("{}{}", check.out, check.err);
    assert!(!said.contains("hunter2") && !said.contains("AAECAwQF"), "{said}");
    assert!(said.contains("environment, RATIONALE_LIMIT") && said.contains("use that"), "{said}");
    assert!(said.contains("verify-full"), "a server elsewhere, not checked: {said}");
    let json = pgw.run(&["config", "check", "--json"]);
    assert!(!json.out.contains("hunter2"));
}

#[test]
fn what_is_wrong_is_named_with_its_origin() {
    let wrong = Pgw::new().with("WEBHOOK_RETRY_MAX", "many").run(&["config", "check"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.err.contains("webhook.retry_max (environment, WEBHOOK_RETRY_MAX)"),
        "{}",
        wrong.err
    );
    let wrong = Pgw::new().with("WEBHOOK_SIGNATURE_VERSION", "md5").run(&["config", "check"]);
    assert_eq!(wrong.code, 2);
    let durable = Pgw::new().with("DB_HOST", "127.0.0.1").run(&["config", "check"]);
    assert!(durable.err.contains("pgw crypto generate"), "{}", durable.err);
}

#[test]
fn every_setting_is_explained() {
    let explained = Pgw::new().run(&["config", "explain", "--json"]).ok().json();
    assert!(explained.len() > 40);
    for setting in explained {
        assert!(!setting["about"].as_str().unwrap().is_empty(), "{setting}");
    }
}
