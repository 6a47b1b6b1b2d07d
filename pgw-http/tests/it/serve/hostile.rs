//! Clients that drip, hide requests in requests, or send too much.

use std::time::Duration;

use pgw_http::serve::Server;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::App;

use super::{Running, request, rest, send, status, until};

/// Sends one header after another, for as long as they are taken; what came of it.
async fn drip(mut stream: TcpStream) -> String {
    send(&mut stream, "GET /livez HTTP/1.1\r\nHost: x\r\n").await;
    let (mut reading, mut writing) = stream.split();
    let dripping = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        while writing.write_all(b"X: y\r\n").await.is_ok() {
            pace.tick().await;
        }
    };
    tokio::select! {
        answer = rest(&mut reading) => answer,
        () = dripping => String::new(),
    }
}

#[tokio::test]
async fn five_hundred_dripping_heads_are_cut_off_and_harm_nobody() {
    let server = Server::new().with_head_timeout(Duration::from_secs(3));
    let running = Running::start(server).await;
    let mut dripping = JoinSet::new();
    for _ in 0..500 {
        dripping.spawn(drip(running.connect().await));
    }
    let silent = running.connect().await;
    let mut kept = running.connect().await;
    send(&mut kept, &request("/livez")).await;
    until(&mut kept, "alive").await;
    // Somebody else is served all the while.
    let mut served = 0;
    while !dripping.is_empty() {
        assert_eq!(status(&running.get("/livez").await), "200");
        served += 1;
        while let Some(answer) = dripping.try_join_next() {
            let answer = answer.unwrap();
            assert!(!answer.contains("alive"), "{answer}");
        }
    }
    assert!(served > 1, "while they dripped");
    for mut stream in [silent, kept] {
        assert!(!rest(&mut stream).await.contains("alive"));
    }
    assert_eq!(status(&running.get("/livez").await), "200");
}

/// "No timeout", as who sets it says it.
#[tokio::test]
async fn a_head_may_take_for_ever() {
    let running = Running::start(Server::new().with_head_timeout(Duration::MAX)).await;
    assert_eq!(status(&running.get("/livez").await), "200");
}

#[tokio::test]
async fn two_thousand_idle_connections_harm_nobody() {
    // However long it takes to make them.
    let running = Running::start(Server::new().with_head_timeout(Duration::MAX)).await;
    let mut idle = Vec::new();
    for n in 0..2_000 {
        let mut stream = running.connect().await;
        if n % 2 == 0 {
            send(&mut stream, &request("/livez")).await;
            until(&mut stream, "alive").await;
        }
        idle.push(stream);
    }
    assert_eq!(status(&running.get("/livez").await), "200");
    // One that was idle is a connection like any other.
    for stream in idle.iter_mut().take(10) {
        send(stream, &request("/livez")).await;
        until(stream, "alive").await;
    }
    running.drain.begin();
    for mut stream in idle {
        assert_eq!(rest(&mut stream).await, "");
    }
    assert_eq!(running.drained().await.cut_off, 0);
}

#[tokio::test]
async fn a_thousand_pipelined_requests_are_answered_in_order() {
    let running = Running::start(Server::new()).await;
    let stream = running.connect().await;
    let (mut reading, mut writing) = stream.into_split();
    let asking = tokio::spawn(async move {
        for n in 0..1_000 {
            let close = if n == 999 { "Connection: close\r\n" } else { "" };
            let text = format!(
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n{close}\r\n<{n:03}>"
            );
            send(&mut writing, &text).await;
        }
        writing
    });
    let answers = rest(&mut reading).await;
    let answers: Vec<_> = answers.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 1_000);
    for (n, answer) in answers.iter().enumerate() {
        assert!(
            answer.starts_with("200 ") && answer.ends_with(&format!("<{n:03}>")),
            "{n}: {answer}"
        );
    }
    asking.await.unwrap();
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused() {
    let running = Running::start(Server::new()).await;
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\n";
    for (what, rest) in [
        ("two lengths", "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
        ("two lengths in one", "Content-Length: 4, 5\r\n\r\nabcde"),
        ("a signed length", "Content-Length: +4\r\n\r\nabcd"),
        ("a folded header", "X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n"),
        ("a space before the colon", "Content-Length : 4\r\n\r\nabcd"),
        ("another coding last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("no chunks", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("a nul", "X-A: b\0c\r\n\r\n"),
        ("chunked before another coding", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        (
            "a coding that ends in the right letters",
            "Transfer-Encoding: gzip,xchunked\r\n\r\n0\r\n\r\n",
        ),
        ("a header without a name", ": 4\r\n\r\nabcd"),
        ("a return in a value", "X-A: b\rContent-Length: 4\r\n\r\nabcd"),
        ("a length of another base", "Content-Length: 0x4\r\n\r\nabcd"),
        ("a length beyond all numbers", "Content-Length: 18446744073709551616\r\n\r\nabcd"),
        (
            "a chunk beyond all numbers",
            "Transfer-Encoding: chunked\r\n\r\n10000000000000004\r\nabcd\r\n0\r\n\r\n",
        ),
        (
            "a chunk that ends in a bare line feed",
            "Transfer-Encoding: chunked\r\n\r\n4\nabcd\n0\n\n",
        ),
        ("a chunk longer than it says", "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
        (
            "a line feed in an extension",
            "Transfer-Encoding: chunked\r\n\r\n4;a=\nb\r\nabcd\r\n0\r\n\r\n",
        ),
        ("a chunk size that is none", "Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n"),
    ] {
        let smuggled = "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = running.ask(&format!("{head}{rest}{smuggled}")).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert_eq!(status(&answer), "400", "{what}: {answer}");
    }
}

#[tokio::test]
async fn nothing_follows_a_body_that_could_have_another_length() {
    let running = Running::start(Server::new()).await;
    let smuggled = "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n";
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: Chunked\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
    ] {
        let text = format!(
            "POST /echo HTTP/1.1\r\nHost: x\r\n{lengths}\r\n3\r\nabc\r\n0\r\n\r\n{smuggled}"
        );
        let answer = running.ask(&text).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.ends_with("abc"), "it is read by its chunks: {answer}");
    }
}

#[tokio::test]
async fn heads_are_bounded() {
    let running = Running::start(Server::new()).await;
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let large = format!("X-Large: {}\r\n", "y".repeat(100 * 1024));
    let name = format!("X-{}: y\r\n", "a".repeat(100 * 1024));
    // It never ends, so there is nothing to wait for.
    let endless = format!("X-{}", "a".repeat(1024 * 1024));
    for headers in [many, large, name, endless] {
        let text = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let mut stream = running.connect().await;
        // Who is cut off in the middle of it gets its end.
        let _ = stream.write_all(text.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || status(&answer) == "431", "{answer}");
    }
    let path = format!("/{}", "a".repeat(60 * 1024));
    assert!(["404", "414"].contains(&status(&running.get(&path).await)));
    let few: String = (0..90).map(|n| format!("X-{n}: y\r\n")).collect();
    let text = format!("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{few}\r\n");
    assert_eq!(status(&running.ask(&text).await), "200");
}

#[tokio::test]
async fn a_chunk_is_what_its_size_says_and_extensions_are_bounded() {
    let running = Running::start(Server::new()).await;
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = running.ask(&format!("{head}3;name=\"v;0\"\r\nabc\r\n0\r\n\r\n")).await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    let long = format!("{head}3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(64 * 1024));
    let mut stream = running.connect().await;
    let _ = stream.write_all(long.as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || status(&answer) == "400", "{answer}");
}

#[tokio::test]
async fn nobody_is_shown_what_they_sent() {
    let app = App::new().await;
    let running = Running::of(Server::new(), app.router.clone()).await;
    for method in ["TRACE", "CONNECT", "TRACK"] {
        let text = format!(
            "{method} /payments HTTP/1.1\r\nHost: x\r\nX-API-Key: secret-7\r\nConnection: close\r\n\r\n"
        );
        let answer = running.ask(&text).await;
        assert!(["400", "405"].contains(&status(&answer)), "{answer}");
        assert!(!answer.contains("secret-7"), "{answer}");
    }
}
