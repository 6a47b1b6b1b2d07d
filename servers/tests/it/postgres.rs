//! The servers by the library's interface.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use servers::{PgBouncer, Postgres, ServerError};

use crate::SOCKET;
use crate::processes::alive;

#[test]
fn both_servers_answer() {
    let postgres = Postgres::builder().start().expect("PostgreSQL starts");
    let pgbouncer =
        PgBouncer::builder(&postgres).with_pool_size(3).start().expect("PgBouncer starts");
    assert_eq!(query(&postgres, &postgres.url(), "select 1"), "1");
    assert_eq!(query(&postgres, &pgbouncer.url(), "select 1"), "1");

    let console = pgbouncer.url().replace("/postgres?", "/pgbouncer?");
    let databases = query(&postgres, &console, "show databases");
    let server = postgres.socket_directory().display().to_string();
    let row = databases.lines().find(|row| row.starts_with("postgres|")).expect("it was used");
    let fields: Vec<_> = row.split('|').collect();
    assert_eq!((fields[1], fields[4], fields[5]), (server.as_str(), "pgw", "3"), "{row}");
}

#[test]
fn settings_are_the_fast_ones_unless_told_otherwise() {
    let settings = "select string_agg(setting, ' ' order by name) from pg_settings \
         where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'work_mem')";
    let fast = Postgres::builder().with_setting("work_mem", "1MB").start();
    let fast = fast.expect("PostgreSQL starts");
    assert_eq!(query(&fast, &fast.url(), settings), "off off off 1024");
    let durable = Postgres::builder().with_setting("work_mem", "1MB").durable();
    let durable = durable.with_setting("work_mem", "2MB").start().expect("PostgreSQL starts");
    assert_eq!(query(&durable, &durable.url(), settings), "on on on 2048");
}

#[test]
fn what_was_committed_outlives_a_kill_and_a_stop() {
    let mut postgres = Postgres::builder().durable().start().expect("PostgreSQL starts");
    let pgbouncer = PgBouncer::builder(&postgres).start().expect("PgBouncer starts");
    query(&postgres, &postgres.url(), "create table kept (number int)");
    for number in 1..=3 {
        let insert = format!("insert into kept values ({number}) returning number");
        assert_eq!(query(&postgres, &pgbouncer.url(), &insert), number.to_string());
        let running = processes(&postgres);
        postgres.kill().expect("it can be killed");
        assert_eq!(alive(&running), [] as [&str; 0]);
        assert!(UnixStream::connect(postgres.socket_directory().join(SOCKET)).is_err());
        postgres.restart().expect("it starts again");
        assert!(postgres.log_tail().contains("was not properly shut down"));
    }
    postgres.stop().expect("it can be stopped");
    postgres.stop().expect("which may be said twice");
    postgres.kill().expect("and then there is nothing to kill");
    postgres.restart().expect("it starts again");
    assert!(!postgres.log_tail().contains("was not properly shut down"));
    postgres.restart().expect("it stops and starts again");
    assert_eq!(query(&postgres, &pgbouncer.url(), "select sum(number) from kept"), "6");
}

#[test]
fn a_kill_breaks_off_what_is_under_way() {
    let mut postgres = Postgres::builder().durable().start().expect("PostgreSQL starts");
    query(&postgres, &postgres.url(), "create table held (number int)");
    let mut session = psql(&postgres, &postgres.url())
        .args(["-c", "begin", "-c", "insert into held values (1)"])
        .args(["-c", "\\echo held", "-c", "select pg_sleep(600)"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql comes with PostgreSQL");
    let mut output = BufReader::new(session.stdout.take().expect("it was asked for"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a pipe can be read");
    assert_eq!(line, "held\n");
    postgres.kill().expect("it can be killed");
    assert!(!session.wait().expect("it is our child").success());
    postgres.restart().expect("it starts again");
    assert_eq!(query(&postgres, &postgres.url(), "select count(*) from held"), "0");
}

#[test]
fn nothing_is_left_of_a_dropped_server() {
    for end in [|_: &mut Postgres| Ok(()), Postgres::kill, Postgres::stop] {
        let mut postgres = Postgres::builder().start().expect("PostgreSQL starts");
        let pgbouncer = PgBouncer::builder(&postgres).start().expect("PgBouncer starts");
        let running = processes(&postgres);
        let memory = shared_memory(&postgres);
        assert!(memory_exists(&memory), "the server has memory {memory}");
        let directories =
            [postgres.socket_directory(), pgbouncer.socket_directory()].map(Path::to_path_buf);
        assert!(directories.iter().all(|directory| directory.is_dir()));
        end(&mut postgres).expect("it ends");
        drop(postgres);
        drop(pgbouncer);
        assert_eq!(alive(&running), [] as [&str; 0]);
        assert!(directories.iter().all(|directory| !directory.exists()));
        assert!(!memory_exists(&memory), "the server's memory {memory} is left");
    }
}

#[test]
fn a_wrong_setting_is_an_error_with_the_log() {
    let error = Postgres::builder().with_setting("no_such_setting", "1").start();
    let Err(ServerError::Ended { program: "postgres", log, .. }) = error else {
        panic!("it started: {error:?}");
    };
    assert!(log.contains("no_such_setting"), "{log}");

    let postgres = Postgres::builder().start().expect("PostgreSQL starts");
    let error = PgBouncer::builder(&postgres).with_setting("pool_mode", "none").start();
    let Err(ServerError::Ended { program: "pgbouncer", log, .. }) = error else {
        panic!("it started: {error:?}");
    };
    assert!(log.contains("pool_mode"), "{log}");
}

/// The rows of a statement's result, without headings.
pub(crate) fn query(postgres: &Postgres, url: &str, statement: &str) -> String {
    let output = psql(postgres, url).args(["-c", statement]).output();
    let output = output.expect("psql comes with PostgreSQL");
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

pub(crate) fn psql(postgres: &Postgres, url: &str) -> Command {
    let mut command = Command::new(postgres.bin_directory().join("psql"));
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", url]);
    command
}

/// The server's processes: the first one, and those that it started.
pub(crate) fn processes(postgres: &Postgres) -> Vec<String> {
    let first = postmaster_line(postgres, 0);
    let pids = query(postgres, &postgres.url(), "select pid from pg_stat_activity");
    let pids: Vec<_> = pids.lines().map(str::to_owned).chain([first]).collect();
    assert!(pids.len() > 4, "the server has few processes: {pids:?}");
    pids
}

/// The number of the server's System V shared memory.
fn shared_memory(postgres: &Postgres) -> String {
    let line = postmaster_line(postgres, 6);
    line.split_whitespace().nth(1).expect("a key and a number").to_owned()
}

fn memory_exists(number: &str) -> bool {
    let segments = fs::read_to_string("/proc/sysvipc/shm").expect("the kernel lists them");
    segments.lines().any(|line| line.split_whitespace().nth(1) == Some(number))
}

fn postmaster_line(postgres: &Postgres, line: usize) -> String {
    let file = postgres.data_directory().join("postmaster.pid");
    let text = fs::read_to_string(file).expect("a server that runs has this file");
    text.lines().nth(line).expect("the server is ready, so all lines are there").to_owned()
}
