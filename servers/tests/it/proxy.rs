//! The proxy, in front of a Redis.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use servers::{Proxy, Redis};

use crate::redis::answer;

#[test]
fn it_passes_on_whatever_is_said() {
    let redis = Redis::builder().with_password("pass").start().expect("Redis starts");
    let proxy = Proxy::start(redis.address()).expect("the proxy starts");
    assert_ne!(proxy.address(), redis.address());
    let url = redis.url_through(proxy.address());
    assert_eq!(url, format!("redis://default:pass@{}/0", proxy.address()));
    assert_eq!(answer(&url, &["SET", "key", "value"]), "OK");

    // More than all buffers on the way hold, to and fro at the same time.
    let mut clients = [(); 4].map(|()| client(proxy.address()));
    let value = vec![b'x'; 16 << 20];
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                client.write_all(b"AUTH pass\r\n").expect("it is passed on");
                let length = value.len();
                write!(client, "*2\r\n$4\r\nECHO\r\n${length}\r\n").expect("it is passed on");
                client.write_all(&value).expect("it is passed on");
                client.write_all(b"\r\n").expect("it is passed on");
                let mut answer = vec![0; format!("+OK\r\n${length}\r\n\r\n").len() + length];
                client.read_exact(&mut answer).expect("it is passed on");
                assert!(answer.ends_with(b"xx\r\n"));
                assert_eq!(answer.iter().filter(|&&byte| byte == b'x').count(), length);
            });
        }
    });
}

#[test]
fn a_cut_closes_and_refuses_until_it_is_healed() {
    let redis = Redis::builder().start().expect("Redis starts");
    let mut proxy = Proxy::start(redis.address()).expect("the proxy starts");
    let address = proxy.address();
    for _ in 0..3 {
        let mut before = client(address);
        assert_answered(&mut before);
        proxy.cut();
        assert_closed(&mut before);
        let error = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        proxy.cut();
        proxy.heal().expect("the port is still its own");
        assert_eq!(proxy.address(), address);
        assert_answered(&mut client(address));
    }
    let mut last = client(address);
    assert_answered(&mut last);
    drop(proxy);
    assert_closed(&mut last);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_delay_holds_up_what_is_said() {
    let redis = Redis::builder().start().expect("Redis starts");
    let mut proxy = Proxy::start(redis.address()).expect("the proxy starts");
    let mut client = client(proxy.address());
    // There and back, longer than any test waits.
    proxy.delay(Duration::from_secs(3_600));
    assert_silent(&mut client);
    proxy.heal().expect("it was not cut");
    assert_pong(&mut client);
    proxy.delay(Duration::from_millis(10));
    assert_answered(&mut client);
    // What is held up is not passed on when the end comes first.
    proxy.delay(Duration::from_secs(3_600));
    client.write_all(b"SET late 1\r\n").expect("it is open");
    proxy.cut();
    assert_closed(&mut client);
    assert_eq!(answer(&redis.url(), &["EXISTS", "late"]), "0");
}

#[test]
fn half_open_connections_stay_and_say_nothing() {
    let redis = Redis::builder().start().expect("Redis starts");
    let mut proxy = Proxy::start(redis.address()).expect("the proxy starts");
    let mut before = client(proxy.address());
    assert_answered(&mut before);
    proxy.half_open();
    let mut meanwhile = client(proxy.address());
    for client in [&mut before, &mut meanwhile] {
        assert_silent(client);
    }
    proxy.heal().expect("it was not cut");
    for client in [&mut before, &mut meanwhile] {
        assert_closed(client);
    }
    assert_answered(&mut client(proxy.address()));

    // The server does not learn that a client is gone, until it is healed.
    let mut left = client(proxy.address());
    left.write_all(b"CLIENT SETNAME left\r\n").expect("it is open");
    left.read_exact(&mut [0; 5]).expect("Redis answers");
    proxy.half_open();
    drop(left);
    assert_silent(&mut client(proxy.address()));
    assert!(answer(&redis.url(), &["CLIENT", "LIST"]).contains("name=left"));
    proxy.heal().expect("it was not cut");

    // Whoever waits at a dead connection is told when it is cut at last.
    let mut before = client(proxy.address());
    assert_answered(&mut before);
    proxy.half_open();
    proxy.cut();
    assert_closed(&mut before);
}

#[test]
fn the_end_of_the_server_is_passed_on() {
    let mut redis = Redis::builder().start().expect("Redis starts");
    let proxy = Proxy::start(redis.address()).expect("the proxy starts");
    let mut before = client(proxy.address());
    assert_answered(&mut before);
    redis.kill().expect("it can be killed");
    assert_closed(&mut before);
    assert_closed(&mut client(proxy.address()));
    redis.restart().expect("it starts again");
    assert_answered(&mut client(proxy.address()));
}

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("the proxy listens");
    client.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    client
}

fn assert_answered(client: &mut TcpStream) {
    client.write_all(PING).expect("it is open");
    assert_pong(client);
}

fn assert_pong(client: &mut TcpStream) {
    let mut answer = [0; 7];
    client.read_exact(&mut answer).expect("Redis answers");
    assert_eq!(&answer, b"+PONG\r\n");
}

fn assert_silent(client: &mut TcpStream) {
    client.write_all(PING).expect("it is open");
    // However long it was waited for, no answer would come: this is only for one that is wrong to be seen.
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("it is not zero");
    let error = client.read(&mut [0]).expect_err("nobody answers, and nobody hangs up");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    client.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
}

/// The connection ends without another word.
fn assert_closed(client: &mut TcpStream) {
    match client.read(&mut [0]) {
        Ok(bytes) => assert_eq!(bytes, 0, "nobody said anything"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

const PING: &[u8] = b"PING\r\n";
/// For a starved machine.
const PATIENCE: Duration = Duration::from_secs(30);
