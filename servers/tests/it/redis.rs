//! Redis by the library's interface.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use servers::{Redis, ServerError};

use crate::processes::alive;

#[test]
fn it_answers_on_its_port_and_its_socket_and_keeps_nothing() {
    let redis = Redis::builder().with_setting("maxmemory", "64mb").start().expect("Redis starts");
    assert_eq!(redis.url(), format!("redis://{}/0", redis.address()));
    assert!(redis.address().ip().is_loopback());
    assert_eq!(answer(&redis.url(), &["SET", "key", "value"]), "OK");
    let by_socket = client().arg("-s").arg(redis.socket()).args(["GET", "key"]).output();
    assert_eq!(text(&by_socket.expect("it comes with Redis")), "value");
    for (name, value) in [("save", ""), ("appendonly", "no"), ("maxmemory", "67108864")] {
        assert_eq!(setting(&redis, name), value, "{name}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process(&redis.url())));
    let status = status.expect("the server runs");
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("it has them");
    assert!(users.split_whitespace().all(|user| user != "0"), "it runs as root: {users}");
}

#[test]
fn it_starts_again_on_the_same_port_with_what_it_was_told_to_keep() {
    let kept = Redis::builder()
        .with_setting("appendonly", "yes")
        .with_setting("appendfsync", "always")
        .start();
    for (mut redis, value) in
        [(kept.expect("Redis starts"), "1"), (Redis::builder().start().expect("Redis starts"), "")]
    {
        let (url, running) = (redis.url(), process(&redis.url()));
        assert_eq!(answer(&url, &["SET", "key", "1"]), "OK");
        redis.kill().expect("it can be killed");
        assert_eq!(alive(&[running]), [] as [&str; 0]);
        assert!(TcpStream::connect(redis.address()).is_err());
        assert!(UnixStream::connect(redis.socket()).is_err());
        redis.kill().expect("and then there is nothing to kill");
        redis.restart().expect("it starts again");
        assert_eq!(redis.url(), url);
        assert_eq!(answer(&url, &["GET", "key"]), value);
        redis.stop().expect("it can be stopped");
        redis.stop().expect("which may be said twice");
        redis.restart().expect("it starts again");
        redis.restart().expect("it stops and starts again");
        assert_eq!(answer(&url, &["GET", "key"]), value);
    }
}

#[test]
fn only_who_knows_the_password_is_let_in() {
    let password = "p@ss \"word\\/ü";
    let by_password = Redis::builder().with_password(password).start().expect("Redis starts");
    let by_name = Redis::builder().with_user("app", password).start().expect("Redis starts");
    for (redis, user) in [(&by_password, "default"), (&by_name, "app")] {
        assert_eq!(answer(&redis.url(), &["ACL", "WHOAMI"]), user);
        assert_eq!(answer(&redis.url(), &["SET", "key", "value"]), "OK");
        let stranger = run(&format!("redis://{}/0", redis.address()), &["GET", "key"]);
        assert!(text(&stranger).starts_with("NOAUTH"), "{stranger:?}");
        assert!(!format!("{redis:?}").contains("p@ss"));
    }
    let default = format!("redis://default:p%40ss%20%22word%5C%2F%C3%BC@{}/0", by_name.address());
    assert!(text(&run(&default, &["GET", "key"])).contains("WRONGPASS"));
}

#[test]
fn with_tls_it_has_a_certificate_by_its_own_authority() {
    let mut redis =
        Redis::builder().with_tls().with_password("pass").start().expect("Redis starts");
    for _ in 0..2 {
        let authority = redis.authority().expect("it has TLS");
        assert!(redis.url().starts_with("rediss://default:pass@127.0.0.1:"));
        let ask = |trust: &[&str]| {
            let mut client = client();
            client.args(trust).args(["-e", "-u", &redis.url(), "PING"]);
            client.output().expect("it comes with Redis")
        };
        let trusting = ask(&["--cacert", authority.to_str().expect("it is ASCII")]);
        assert_eq!(text(&trusting), "PONG", "{trusting:?}");
        let distrusting = ask(&[]);
        assert!(!distrusting.status.success());
        let why = String::from_utf8_lossy(&distrusting.stderr);
        assert!(why.contains("certificate verify failed"), "{why}");
        let plain = run(&redis.url().replace("rediss:", "redis:"), &["PING"]);
        assert!(!plain.status.success());
        redis.restart().expect("it starts again, with the same certificate");
    }
    assert!(Redis::builder().start().expect("Redis starts").authority().is_none());
}

#[test]
fn nothing_is_left_of_a_dropped_server() {
    for end in [|_: &mut Redis| Ok(()), Redis::kill, Redis::stop] {
        let mut redis = Redis::builder().start().expect("Redis starts");
        let (running, directory) = ([process(&redis.url())], redis.directory().to_path_buf());
        assert!(directory.is_dir());
        end(&mut redis).expect("it ends");
        drop(redis);
        assert_eq!(alive(&running), [] as [&str; 0]);
        assert!(!directory.exists());
    }
}

#[test]
fn a_wrong_setting_is_an_error_with_the_log() {
    let error = Redis::builder().with_setting("no-such-setting", "1").start();
    let Err(ServerError::Ended { program: "redis-server", log, .. }) = error else {
        panic!("it started: {error:?}");
    };
    assert!(log.contains("no-such-setting"), "{log}");
}

/// The answer to a command, which is no error.
pub(crate) fn answer(url: &str, command: &[&str]) -> String {
    let output = run(url, command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    text(&output).to_owned()
}

/// Runs a command.
pub(crate) fn run(url: &str, command: &[&str]) -> Output {
    let mut client = client();
    client.args(["-e", "-u", url]).args(command);
    client.output().expect("it comes with Redis")
}

/// Writes to a master, and waits until its replica has it. That is by one connection: WAIT waits for its own writes only.
pub(crate) fn write_twice(url: &str, key: &str, value: &str) {
    let mut client = client();
    let client = client.args(["-u", url]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("it comes with Redis");
    let mut input = client.stdin.take().expect("it was asked for");
    write!(input, "SET {key} {value}\nWAIT 1 30000\n").expect("it reads");
    drop(input);
    let output = client.wait_with_output().expect("it is our child");
    assert_eq!(text(&output), "OK\n1");
}

/// The number of the server's process.
pub(crate) fn process(url: &str) -> String {
    let information = answer(url, &["INFO", "server"]);
    let number = information.lines().find_map(|line| line.strip_prefix("process_id:"));
    number.expect("it tells").to_owned()
}

fn setting(redis: &Redis, name: &str) -> String {
    let named = answer(&redis.url(), &["CONFIG", "GET", name]);
    named.lines().nth(1).unwrap_or_default().to_owned()
}

fn client() -> Command {
    let mut client = Command::new("redis-cli");
    client.arg("--no-auth-warning");
    client
}

/// What Redis answers, which comes on standard error if it is an error.
pub(crate) fn text(output: &Output) -> &str {
    let stream = if output.status.success() { &output.stdout } else { &output.stderr };
    str::from_utf8(stream).expect("all of it is ASCII").trim_end()
}
