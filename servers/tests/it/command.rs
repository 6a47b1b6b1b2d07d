//! The program `servers`.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::SOCKET;

#[test]
fn the_command_finds_both_servers_and_gives_the_status() {
    let script = r#"echo "$PGW_TEST_POSTGRES"; echo "$PGW_TEST_PGBOUNCER"; exit 7"#;
    let output = servers(&["--durable", "--", "sh", "-c", script]).output().expect("it is built");
    assert_eq!(output.status.code(), Some(7));
    let directories: Vec<_> = text(&output).lines().map(directory).collect();
    assert_eq!(directories.len(), 2);
    assert_ne!(directories[0], directories[1]);
    assert!(directories.iter().all(|directory| !directory.exists()));
}

#[test]
fn a_command_that_was_killed_or_is_not_there_has_a_shells_status() {
    let output = servers(&["--", "sh", "-c", "kill -9 $$"]).output().expect("it is built");
    assert_eq!(output.status.code(), Some(137));
    let output = servers(&["--", "/no/such/program"]).output().expect("it is built");
    assert_eq!(output.status.code(), Some(127));
    for wrong in [&["--fast", "--", "true"][..], &["--"], &[]] {
        let output = servers(wrong).output().expect("it is built");
        assert_eq!(output.status.code(), Some(125));
    }
}

#[test]
fn ctrl_c_ends_the_command_and_then_the_servers() {
    let (mut servers, directories) = waiting();
    kill_process_group(Pid::from_child(&servers), Signal::INT).expect("it runs");
    assert_eq!(servers.wait().expect("it is our child").code(), Some(130));
    assert!(directories.iter().all(|directory| !directory.exists()));
}

#[test]
fn a_request_to_terminate_is_passed_on() {
    let (mut servers, directories) = waiting();
    kill_process(Pid::from_child(&servers), Signal::TERM).expect("it runs");
    assert_eq!(servers.wait().expect("it is our child").code(), Some(143));
    assert!(directories.iter().all(|directory| !directory.exists()));
}

#[test]
fn the_servers_end_although_their_owner_was_killed() {
    let (mut servers, directories) = waiting();
    let connections = directories.map(|directory| {
        let connection = UnixStream::connect(directory.join(SOCKET)).expect("the server listens");
        // Shorter than the time after which a server hangs up on a client that says nothing.
        connection.set_read_timeout(Some(Duration::from_secs(30))).expect("it is not zero");
        connection
    });
    kill_process(Pid::from_child(&servers), Signal::KILL).expect("it runs");
    for mut connection in connections {
        match connection.read(&mut [0]) {
            Ok(bytes) => assert_eq!(bytes, 0, "nobody said anything"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
    // The command is left.
    kill_process_group(Pid::from_child(&servers), Signal::KILL).expect("it runs");
    assert_eq!(servers.wait().expect("it is our child").signal(), Some(9));
}

/// The program in a process group of its own, as under a shell, with a command that waits; and the directories of its
/// servers.
fn waiting() -> (Child, [PathBuf; 2]) {
    let script = r#"echo "$PGW_TEST_POSTGRES"; echo "$PGW_TEST_PGBOUNCER"; exec sleep 600"#;
    let mut command = servers(&["--", "sh", "-c", script]);
    let mut servers = command.stdout(Stdio::piped()).process_group(0).spawn().expect("it is built");
    let mut output = BufReader::new(servers.stdout.take().expect("it was asked for"));
    let directories = [(); 2].map(|()| {
        let mut line = String::new();
        output.read_line(&mut line).expect("a pipe can be read");
        directory(line.trim_end())
    });
    assert!(directories.iter().all(|directory| directory.is_dir()));
    (servers, directories)
}

fn servers(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_servers"));
    command.args(arguments);
    command
}

fn text(output: &Output) -> &str {
    str::from_utf8(&output.stdout).expect("URLs are ASCII")
}

/// The directory in a URL.
fn directory(url: &str) -> PathBuf {
    let (_, directory) = url.split_once("?host=").expect("the URL names a socket");
    PathBuf::from(directory.replace("%2F", "/"))
}
