//! A disk that is full: commits fail with an error, reads go on, and nothing that was acknowledged is lost.
//!
//! The limit on the size of files (`RLIMIT_FSIZE`) makes the server's own writes fail, and anybody may set it; a file system that is full
//! takes root, so that test is for machines where one can be mounted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use pgw_core::changes::{Changes, Write};
use pgw_core::storage::StorageError;
use pgw_core::testing::sample::{Creation, Samples};
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, Row as _};
use pgw_storage_postgres::{PgStorage, sqlx};
use servers::Postgres;

use super::{Own, commit, is_applied, is_there, keyed, run, shown};

/// A segment of the write-ahead log: the smallest limit under which the log still grows.
const SEGMENT: u64 = 16 << 20;
/// More payments than a few free pages have room for.
const ATTEMPTS: usize = 2_000;

/// A new payment whose event takes a quarter of a page.
fn large(samples: &Samples) -> (Creation, Changes) {
    let (mut creation, mut changes) = keyed(samples);
    creation.event.body = Bytes::from(vec![b'x'; 1_900]);
    for write in &mut changes.writes {
        if let Write::Event(event) = write {
            event.body = creation.event.body.clone();
        }
    }
    (creation, changes)
}

/// Creates payments until the disk is full: those that were acknowledged, and the one that was not with its error.
async fn fill(
    storage: &PgStorage,
    samples: &Samples,
) -> (Vec<Creation>, Creation, Changes, StorageError) {
    let mut acknowledged = Vec::new();
    for _ in 0..ATTEMPTS {
        let (creation, changes) = large(samples);
        match commit(storage, &changes).await {
            Err(error) => return (acknowledged, creation, changes, error),
            committed => assert!(is_applied(&committed)),
        }
        acknowledged.push(creation);
    }
    panic!("{ATTEMPTS} payments fitted on a full disk");
}

/// Limits the files that connections write, these and those to come. What writes out later what they did is left alone.
async fn limit(own: &Own, admin: &mut PgConnection, bytes: &str) {
    let data = own.server.data_directory();
    let file = fs::read_to_string(data.join("postmaster.pid")).expect("the server is up");
    let mut pids = vec![file.lines().next().expect("the first line is its number").to_owned()];
    let query = "select pid::text from pg_stat_activity where backend_type = 'client backend'";
    let rows = sqlx::query(query).fetch_all(admin).await.expect("a healthy server");
    pids.extend(rows.iter().map(|row| row.get::<String, _>(0)));
    let owner = fs::metadata(&data).expect("it is there");
    for pid in pids {
        // As the server's user, who may do this without being privileged. The soft limit: it can be raised again.
        let mut command = Command::new("prlimit");
        command.uid(owner.uid()).gid(owner.gid()).args([
            "--pid",
            &pid,
            &format!("--fsize={bytes}:"),
        ]);
        assert!(command.status().expect("prlimit is a part of util-linux").success());
    }
}

#[tokio::test]
async fn a_table_that_cannot_grow_fails_commits_and_loses_nothing() {
    let own = Own::start(Postgres::builder().durable().with_setting("autovacuum", "off")).await;
    let (storage, samples) = (own.storage(2).await, Samples::new(1));
    let mut admin = own.connection().await;
    let mut acknowledged = Vec::new();
    for _ in 0..5 {
        let (creation, changes) = large(&samples);
        assert!(is_applied(&commit(&storage, &changes).await));
        acknowledged.push(creation);
    }
    let fill_up = format!(
        "insert into pgw.events (merchant, live, id, event_type, created_at, body) \
         select 'filler', true, gen_random_uuid(), 'test.ping', now(), repeat('x', 1900)::bytea from generate_series(1, {}); checkpoint",
        SEGMENT / 2_000
    );
    run(&mut admin, &fill_up).await;
    limit(&own, &mut admin, &SEGMENT.to_string()).await;
    let (more, refused, changes, error) = fill(&storage, &samples).await;
    acknowledged.extend(more);
    assert!(error.is_retryable() && shown(&error).contains("could not extend file"), "{error:?}");
    for creation in &acknowledged {
        assert!(is_there(&storage, creation).await, "reads go on");
    }
    assert!(!is_there(&storage, &refused).await);

    limit(&own, &mut admin, "unlimited").await;
    assert!(is_applied(&commit(&storage, &changes).await), "there is room again");
    acknowledged.push(refused);
    for creation in &acknowledged {
        assert!(is_there(&storage, creation).await);
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_the_server_and_loses_nothing() {
    // Only a commit writes to the log, not a process of the server's that comes by.
    let postgres = Postgres::builder().durable().with_setting("wal_writer_delay", "10s");
    let mut own = Own::start(postgres).await;
    let (storage, samples) = (own.storage(2).await, Samples::new(1));
    let mut acknowledged = Vec::new();
    for _ in 0..20 {
        let (creation, changes) = keyed(&samples);
        assert!(is_applied(&commit(&storage, &changes).await));
        acknowledged.push(creation);
    }
    let mut admin = own.connection().await;
    limit(&own, &mut admin, "0").await;
    let (creation, changes) = keyed(&samples);
    let error = commit(&storage, &changes).await.expect_err("nothing can be written");
    // The server died of it, so nobody can know.
    assert!(matches!(error, StorageError::Indeterminate(_)), "{error:?}");
    // Closed or not, the server that it led to is gone.
    drop(admin.close().await);

    own.server.restart().expect("it recovers once it can write");
    for creation in &acknowledged {
        assert!(is_there(&storage, creation).await, "an acknowledged payment is lost");
    }
    let was_there = is_there(&storage, &creation).await;
    let again = commit(&storage, &changes).await.expect("the server is back");
    assert_eq!(matches!(again, pgw_core::changes::Committed::Applied { .. }), !was_there);
    assert!(is_there(&storage, &creation).await);
}

/// A small file system in memory.
struct Small(PathBuf);

impl Small {
    /// None where one may not mount.
    fn mount(owner: &Path) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("pgw-small-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let owner = fs::metadata(owner).ok()?;
        let options = format!("size=1m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).output();
        let small = Self(path);
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(small)
    }

    fn grow(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=16m"]).arg(&self.0).status();
        assert!(grown.expect("it mounted before").success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Where it was never mounted there is only the directory.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_full_file_system_makes_the_storage_unavailable() {
    let own = Own::start(Postgres::builder().durable()).await;
    let Some(small) = Small::mount(&own.server.data_directory()) else {
        eprintln!("not tested: this user may not mount a file system");
        return;
    };
    let (storage, samples) = (own.storage(2).await, Samples::new(1));
    let mut admin = own.connection().await;
    run(&mut admin, &format!("create tablespace small location '{}'", small.0.display())).await;
    run(&mut admin, "alter table pgw.events set tablespace small").await;
    let (mut acknowledged, refused, changes, error) = fill(&storage, &samples).await;
    assert!(!acknowledged.is_empty());
    // The server says that nothing was applied, and why.
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
    assert!(shown(&error).contains("No space left on device"), "{error:?}");
    assert!(!is_there(&storage, &refused).await);
    small.grow();
    assert!(is_applied(&commit(&storage, &changes).await), "there is room again");
    acknowledged.push(refused);
    for creation in &acknowledged {
        assert!(is_there(&storage, creation).await, "an acknowledged payment is lost");
    }
    storage.pool().close().await;
    admin.close().await.expect("a healthy server");
}
