//! `pgw` as its users meet it: the binary itself, on memory and on a real PostgreSQL.

mod backups;
mod browser;
mod command;
mod configuration;
mod observing;
mod operating;
mod privacy;
mod redis;
mod seed;
mod serving;

/// A port on which nobody listens, and what keeps it from being given to somebody who would.
fn closed_port() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}
