//! The pair of PostgreSQL servers by the library's interface.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Stdio};

use servers::{PgBouncer, PostgresPair};

use crate::postgres::{processes, psql, query};
use crate::processes::alive;

#[test]
fn what_was_acknowledged_outlives_the_primary() {
    let mut pair = PostgresPair::builder().with_setting("work_mem", "1MB").start();
    let pair = pair.as_mut().expect("the pair starts");
    let pgbouncer = PgBouncer::builder_for_pair(pair).start().expect("PgBouncer starts");
    let url = pair.url();
    let standby = pair.standby().expect("it has one").url();
    query(pair.primary(), &url, "create table kept (number int)");
    let [settings, recovers] = ["show synchronous_commit", "select pg_is_in_recovery()"];
    for (url, recovering) in [(&url, "f"), (&standby, "t"), (&pgbouncer.url(), "f")] {
        assert_eq!(query(pair.primary(), url, recovers), recovering);
        assert_eq!(query(pair.primary(), url, settings), "on");
        assert_eq!(query(pair.primary(), url, "show work_mem"), "1MB");
    }

    let acknowledged = killed_under_load(pair);
    assert!(acknowledged > 0, "nothing was acknowledged");
    pair.promote().expect("the standby takes over");
    assert!(pair.standby().is_none());
    assert_eq!(pair.primary().url(), standby);
    assert_eq!(pair.url(), url, "it leads to the other one now");
    for url in [url, pgbouncer.url()] {
        assert_eq!(query(pair.primary(), &url, recovers), "f");
        let kept = query(pair.primary(), &url, "select count(distinct number) from kept");
        let kept: u32 = kept.parse().expect("it is a number");
        // The one under way was committed or not, and not acknowledged.
        assert!(kept == acknowledged || kept == acknowledged + 1, "{kept} of {acknowledged}");
        query(pair.primary(), &url, "insert into kept select max(number) from kept");
    }
}

#[test]
fn a_promotion_ends_a_primary_that_runs() {
    let mut pair = PostgresPair::builder().start().expect("the pair starts");
    let running = processes(pair.primary());
    let directory = pair.primary().socket_directory().to_path_buf();
    pair.promote().expect("the standby takes over");
    assert_eq!(alive(&running), [] as [&str; 0]);
    assert!(!directory.exists());
}

#[test]
fn nothing_is_left_of_a_dropped_pair() {
    let mut pair = PostgresPair::builder().start().expect("the pair starts");
    let standby = pair.standby().expect("it has one");
    let mut running = processes(pair.primary());
    running.extend(processes(standby));
    let link = pair.socket_directory();
    let directories =
        [pair.primary(), standby].map(|server| server.socket_directory().to_path_buf());
    assert!(link.is_symlink());
    pair.kill_primary().expect("it can be killed");
    drop(pair);
    assert_eq!(alive(&running), [] as [&str; 0]);
    assert!(!link.is_symlink() && directories.iter().all(|directory| !directory.exists()));
}

/// Kills the primary while it commits one number after the other, from 1. Returns the last one that it acknowledged.
fn killed_under_load(pair: &mut PostgresPair) -> u32 {
    let mut session = psql(pair.primary(), &pair.url())
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql comes with PostgreSQL");
    let mut input = session.stdin.take().expect("it was asked for");
    let mut output = BufReader::new(session.stdout.take().expect("it was asked for"));
    let writer = std::thread::spawn(move || {
        // Each is a commit of its own. It ends with the server, when nobody reads any more.
        (1..).find(|number| {
            let insert = format!("insert into kept values ({number}) returning number;\n");
            std::io::Write::write_all(&mut input, insert.as_bytes()).is_err()
        })
    });
    let before = (0..BEFORE_KILL).map(|_| number(&mut output)).last().flatten();
    assert_eq!(before, Some(BEFORE_KILL));
    pair.kill_primary().expect("it can be killed");
    let after = std::iter::from_fn(|| number(&mut output)).last();
    writer.join().expect("it does not panic");
    assert!(!session.wait().expect("it is our child").success());
    after.or(before).expect("some were acknowledged")
}

/// The next number that was acknowledged; none once there are no more.
fn number(output: &mut BufReader<ChildStdout>) -> Option<u32> {
    let mut line = String::new();
    output.read_line(&mut line).expect("a pipe can be read");
    line.trim_end().parse().ok()
}

/// Enough for the standby to be in the middle of it.
const BEFORE_KILL: u32 = 200;
