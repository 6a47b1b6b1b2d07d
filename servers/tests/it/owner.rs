//! What becomes of the servers of a process that is killed. The process is this test in another one.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use servers::{PostgresPair, Proxy, Redis, RedisCluster, RedisSentinel};

use crate::SOCKET;

#[test]
fn the_servers_end_with_their_owner() {
    if env::var_os(OWNER).is_some() {
        own_until_killed();
    }
    let mut owner = Command::new(env::current_exe().expect("it runs"))
        .args(["--exact", "owner::the_servers_end_with_their_owner", "--nocapture"])
        .env(OWNER, "")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let output = BufReader::new(owner.stdout.take().expect("it was asked for"));
    let lines = output.lines().map(|line| line.expect("a pipe can be read"));
    let mut connections: Vec<_> = lines
        .skip_while(|line| line != BEGIN)
        .skip(1)
        .take_while(|line| line != END)
        .map(|line| connection(&line))
        .collect();
    assert_eq!(connections.len(), 14);
    owner.kill().expect("it is our child");
    owner.wait().expect("it is our child");
    for connection in &mut connections {
        match connection.read(&mut [0]) {
            Ok(bytes) => assert_eq!(bytes, 0, "nobody said anything"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

/// Starts one of each, tells where they are, and waits to be killed.
fn own_until_killed() -> ! {
    let pair = PostgresPair::builder().start().expect("the pair starts");
    let redis = Redis::builder().with_tls().start().expect("Redis starts");
    let cluster = RedisCluster::builder().with_replicas().start().expect("the cluster starts");
    let sentinel = RedisSentinel::start().expect("all of them start");
    let proxy = Proxy::start(redis.address()).expect("the proxy starts");
    println!("\n{BEGIN}");
    for server in [pair.primary(), pair.standby().expect("it has one")] {
        println!("{}", server.socket_directory().join(SOCKET).display());
    }
    let urls = cluster.urls().into_iter().chain(sentinel.urls());
    for url in urls.chain([0, 1].map(|index| sentinel.server(index).url())) {
        println!("{}", url.trim_start_matches("redis://").trim_end_matches("/0"));
    }
    println!("{}\n{END}", proxy.address());
    loop {
        std::thread::park();
    }
}

/// A connection to an address, or to the socket at a path.
fn connection(place: &str) -> Box<dyn Read> {
    // Shorter than the time after which a server hangs up on a client that says nothing.
    let patience = Some(Duration::from_secs(30));
    if let Ok(address) = place.parse::<SocketAddr>() {
        let connection = TcpStream::connect(address).expect("the server listens");
        connection.set_read_timeout(patience).expect("it is not zero");
        return Box::new(connection);
    }
    let connection = UnixStream::connect(place).expect("the server listens");
    connection.set_read_timeout(patience).expect("it is not zero");
    Box::new(connection)
}

const OWNER: &str = "PGW_TEST_OWNER";
const BEGIN: &str = "begin";
const END: &str = "end";
