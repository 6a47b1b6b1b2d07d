//! The program `servers`.

use std::collections::HashSet;
use std::io::{self, BufRead as _, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::SOCKET;

#[test]
fn the_command_finds_the_servers_and_gives_the_status() {
    let script = format!("{URLS}; exit 7");
    let output = servers(&["--durable", "--", "sh", "-c", &script]).output().expect("it is built");
    assert_eq!(output.status.code(), Some(7));
    let mut lines = text(&output).lines();
    let found = Servers::read(|| lines.next().unwrap_or_default().to_owned());
    assert_ne!(found.directories[0], found.directories[1]);
    assert_eq!(found.ports.iter().collect::<HashSet<_>>().len(), 4);
    found.assert_gone();
}

#[test]
fn the_redis_servers_serve_the_command() {
    let script = r#"redis-cli -u "$PGW_TEST_REDIS" SET key value
        redis-cli -c -u "${PGW_TEST_REDIS_CLUSTER%%,*}" SET foo value"#;
    let output = servers(&["--", "sh", "-c", script]).output().expect("it is built");
    assert_eq!(text(&output), "OK\nOK\n");
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
    let (mut command, servers) = waiting();
    kill_process_group(Pid::from_child(&command), Signal::INT).expect("it runs");
    assert_eq!(command.wait().expect("it is our child").code(), Some(130));
    servers.assert_gone();
}

#[test]
fn a_request_to_terminate_is_passed_on() {
    let (mut command, servers) = waiting();
    kill_process(Pid::from_child(&command), Signal::TERM).expect("it runs");
    assert_eq!(command.wait().expect("it is our child").code(), Some(143));
    servers.assert_gone();
}

#[test]
fn the_servers_end_although_their_owner_was_killed() {
    let (mut command, servers) = waiting();
    let mut sockets = servers.directories.each_ref().map(|directory| {
        let socket = UnixStream::connect(directory.join(SOCKET)).expect("the server listens");
        // Shorter than the time after which a server hangs up on a client that says nothing.
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("it is not zero");
        socket
    });
    let mut streams = servers.ports.map(|port| {
        let stream = TcpStream::connect((LOCALHOST, port)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it is not zero");
        stream
    });
    kill_process(Pid::from_child(&command), Signal::KILL).expect("it runs");
    sockets.iter_mut().for_each(assert_closed);
    streams.iter_mut().for_each(assert_closed);
    // The command is left.
    kill_process_group(Pid::from_child(&command), Signal::KILL).expect("it runs");
    assert_eq!(command.wait().expect("it is our child").signal(), Some(9));
}

/// Where the servers of the program are.
struct Servers {
    /// Of PostgreSQL and PgBouncer.
    directories: [PathBuf; 2],
    /// Of Redis and the nodes of the Redis Cluster.
    ports: [u16; 4],
}

impl Servers {
    /// From what [`URLS`] prints.
    fn read(mut line: impl FnMut() -> String) -> Self {
        let directories = [(); 2].map(|()| directory(&line()));
        let redis = line();
        let ports: Vec<_> =
            [redis.as_str()].into_iter().chain(line().split(',')).map(port).collect();
        Self { directories, ports: ports.try_into().expect("one Redis and three nodes") }
    }

    fn assert_gone(&self) {
        assert!(self.directories.iter().all(|directory| !directory.exists()));
        assert!(self.ports.iter().all(|&port| TcpStream::connect((LOCALHOST, port)).is_err()));
    }
}

/// The program in a process group of its own, as under a shell, with a command that waits; and its servers.
fn waiting() -> (Child, Servers) {
    let script = format!("{URLS}; exec sleep 600");
    let mut command = servers(&["--", "sh", "-c", &script]);
    let mut command = command.stdout(Stdio::piped()).process_group(0).spawn().expect("it is built");
    let mut output = BufReader::new(command.stdout.take().expect("it was asked for"));
    let servers = Servers::read(|| {
        let mut line = String::new();
        output.read_line(&mut line).expect("a pipe can be read");
        line.trim_end().to_owned()
    });
    assert!(servers.directories.iter().all(|directory| directory.is_dir()));
    (command, servers)
}

/// The connection ends without a word.
fn assert_closed(connection: &mut impl Read) {
    match connection.read(&mut [0]) {
        Ok(bytes) => assert_eq!(bytes, 0, "nobody said anything"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
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

/// The port in a URL.
fn port(url: &str) -> u16 {
    let address = url.strip_prefix("redis://127.0.0.1:").and_then(|rest| rest.strip_suffix("/0"));
    address.and_then(|port| port.parse().ok()).expect("the URL names a port")
}

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Prints the URLs, one kind of server a line.
const URLS: &str = r#"for url in "$PGW_TEST_POSTGRES" "$PGW_TEST_PGBOUNCER" "$PGW_TEST_REDIS" "$PGW_TEST_REDIS_CLUSTER"
    do echo "$url"; done"#;
