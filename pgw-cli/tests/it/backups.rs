//! Backups: whole or not there, restored to prove it, and never the last good one deleted. Rows 9, 64 and 65 of the seed.

use std::fs;
use std::path::PathBuf;

use crate::command::Pgw;

/// A directory of its own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pgw-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_backup_is_verified_by_restoring_it() {
    let pgw = Pgw::on_postgres();
    pgw.key("admin");
    // A key that stands for no payment.
    let schema = pgw.variable("PGW_SCHEMA").to_owned();
    let sql = format!(
        "insert into {schema}.idempotency_keys (merchant, live, key, fingerprint, object, created_at) \
         values ('default', false, 'k', decode(repeat('00', 32), 'hex'), 'found', now())"
    );
    crate::operating::execute(&pgw, &sql);
    let scratch = Scratch::new("backup");
    let made = pgw.run(&["backup", "--to", scratch.path(), "--json"]).ok().json();
    let path = made[0]["path"].as_str().unwrap().to_owned();
    let verified = pgw.run(&["verify-backup", &path]).ok();
    assert!(verified.out.contains("can be restored"), "{}", verified.out);
    assert!(scratch.files().iter().any(|name| name.ends_with(".verified")));

    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "it is its owner's");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let broken = pgw.run(&["verify-backup", &path]);
    assert_eq!(broken.code, 5, "{}", broken.err);
}

#[test]
fn what_is_restored_but_does_not_hold_is_found() {
    let pgw = Pgw::on_postgres();
    let scratch = Scratch::new("invariants");
    let schema = pgw.variable("PGW_SCHEMA").to_owned();
    // A key for a payment that does not exist, with an answer that nothing tells: nothing of ours writes that.
    let sql = format!(
        "insert into {schema}.idempotency_keys (merchant, live, key, fingerprint, payment, operation, answer_status, answer_event, answer_length, created_at) \
         values ('default', false, 'k', decode(repeat('00', 32), 'hex'), gen_random_uuid(), gen_random_uuid(), 201, gen_random_uuid(), 1, now())"
    );
    crate::operating::execute(&pgw, &sql);
    let made = pgw.run(&["backup", "--to", scratch.path(), "--json"]).ok().json();
    let verified = pgw.run(&["verify-backup", made[0]["path"].as_str().unwrap(), "--json"]);
    assert_eq!(verified.code, 5, "{}", verified.err);
    let broken: Vec<_> =
        verified.json().into_iter().filter(|row| row["broken"].as_u64() > Some(0)).collect();
    assert_eq!(broken.len(), 2);
    assert_eq!(broken[0]["invariant"], "every idempotency key has its payment");
    assert_eq!(broken[1]["invariant"], "every answer that an event tells has that event");
}

#[test]
fn what_a_later_version_made_is_not_proved_by_this_one() {
    let pgw = Pgw::on_postgres();
    let scratch = Scratch::new("later");
    crate::operating::migrate_later(&pgw);
    let made = pgw.run(&["backup", "--to", scratch.path(), "--json"]).ok().json();
    let verified = pgw.run(&["verify-backup", made[0]["path"].as_str().unwrap()]);
    assert_eq!(verified.code, 5, "{}", verified.err);
    assert!(verified.err.contains("by a later version"), "{}", verified.err);
    assert!(!scratch.files().iter().any(|name| name.ends_with(".verified")));
}

#[test]
fn a_part_of_the_pipe_that_fails_leaves_no_backup() {
    let pgw = Pgw::on_postgres();
    let scratch = Scratch::new("pipe");
    for through in ["false", "head -c 100", "cat >/dev/null; exit 3"] {
        let failed = pgw.run(&["backup", "--to", scratch.path(), "--through", through]);
        assert_ne!(failed.code, 0, "{through}");
        assert!(scratch.files().is_empty(), "{through}: {:?}", scratch.files());
    }
    pgw.run(&["backup", "--to", scratch.path(), "--through", "gzip"]).ok();
    let made = scratch.0.join(&scratch.files()[0]);
    pgw.run(&["verify-backup", made.to_str().unwrap(), "--through", "gunzip"]).ok();
    let wrong = pgw.run(&["verify-backup", made.to_str().unwrap(), "--through", "cat"]);
    assert_eq!(wrong.code, 5);
}

#[test]
fn an_unreachable_database_deletes_no_old_backup() {
    let scratch = Scratch::new("old");
    let old = scratch.0.join("backup_20200101_000000.dump");
    let file = fs::File::create(&old).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let pgw = Pgw::new().with("DATABASE_URL", "postgres://u@127.0.0.1:1/x");
    assert_ne!(pgw.run(&["backup", "--to", scratch.path()]).code, 0);
    assert!(old.exists());
}
