//! Where clients come into a proxy.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::ServerError;
use crate::poll;

use super::{Mode, Shared};

/// A thread that takes clients in. Dropping it refuses them.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Entrance {
    pub(super) fn open(
        address: SocketAddr,
        target: SocketAddr,
        shared: &Arc<Shared>,
    ) -> Result<Self, ServerError> {
        // A child that another thread has just started holds whatever this process listened on until it runs its program.
        let listener = poll::until("a proxy", || match TcpListener::bind(address) {
            Ok(listener) => Ok(Ok(listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(Err(error.to_string())),
            Err(error) => Err(ServerError::system(format!("listen on {address}"))(error)),
        })?;
        let listener = Arc::new(listener);
        let (entrance, shared) = (Arc::clone(&listener), Arc::clone(shared));
        let thread = thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || take_in(&entrance, target, &shared))
            .map_err(ServerError::system("start a thread for a proxy"))?;
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        // On Linux that ends the waiting for clients, and refuses those who were not taken in yet.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Takes clients in until the listener is shut down.
fn take_in(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    loop {
        match listener.accept() {
            Ok((client, _)) => welcome(client, target, shared),
            // What accept(2) says of a socket that does not listen.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // A client that left before it was taken in, or no room for another: neither is for long.
            Err(_) => thread::park_timeout(PAUSE),
        }
    }
}

/// Connects a client with the server, if that is there.
fn welcome(client: TcpStream, target: SocketAddr, shared: &Arc<Shared>) {
    let mode = shared.state().mode;
    match mode {
        Mode::Swallow => shared.connect(client, None),
        Mode::Forward => {
            if let Ok(server) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
                shared.connect(client, Some(server));
            }
        }
    }
}

/// A server on this machine answers at once, unless its queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
