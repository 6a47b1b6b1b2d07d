//! A connection through a proxy: a thread for each direction.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, PoisonError};
use std::thread;

use super::{Mode, Shared, State};

/// Both ends of a connection. Dropping it closes it, under the threads that move its bytes too.
#[derive(Debug)]
pub(super) struct Connection {
    client: Arc<TcpStream>,
    /// None if it came when everything was swallowed.
    server: Option<Arc<TcpStream>>,
    /// How many of its directions are open.
    directions: usize,
}

impl Connection {
    fn new(client: TcpStream, server: Option<TcpStream>) -> io::Result<Self> {
        // What is passed on has been through one buffer already.
        client.set_nodelay(true)?;
        server.as_ref().map_or(Ok(()), |server| server.set_nodelay(true))?;
        let directions = if server.is_some() { 2 } else { 1 };
        Ok(Self { client: Arc::new(client), server: server.map(Arc::new), directions })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for stream in [Some(&self.client), self.server.as_ref()].into_iter().flatten() {
            // It fails if the other side has closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// Begins a connection; `server` is none if it was swallowed when the client came. A connection that cannot be
    /// begun is closed, which is what the client sees of any other failure too.
    pub(super) fn connect(self: &Arc<Self>, client: TcpStream, server: Option<TcpStream>) {
        let Ok(connection) = Connection::new(client, server) else { return };
        let mut state = self.state();
        let is_stale = connection.server.is_none() && state.mode == Mode::Forward;
        if is_stale || state.connections.len() == CONNECTIONS_MAX {
            return;
        }
        let number = state.number;
        state.number += 1;
        let (client, server) = (Arc::clone(&connection.client), connection.server.clone());
        state.connections.insert(number, connection);
        if let Some(server) = &server {
            self.start_mover(&mut state, number, Arc::clone(server), Some(Arc::clone(&client)));
        }
        self.start_mover(&mut state, number, client, server);
    }

    fn start_mover(
        self: &Arc<Self>,
        state: &mut State,
        number: u64,
        from: Arc<TcpStream>,
        to: Option<Arc<TcpStream>>,
    ) {
        state.movers += 1;
        let shared = Arc::clone(self);
        let started = thread::Builder::new().name("proxy connection".to_owned()).spawn(move || {
            let is_broken = shared.move_bytes(number, &from, to.as_deref()).is_err();
            shared.change(|state| state.ended(number, is_broken));
        });
        if started.is_err() {
            state.ended(number, true);
        }
    }

    /// Moves bytes until there are no more in this direction. An error breaks the connection.
    fn move_bytes(
        &self,
        number: u64,
        mut from: &TcpStream,
        to: Option<&TcpStream>,
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        loop {
            let length = match from.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if let (Some(mut to), Some(Mode::Forward)) = (to, self.hold_up(number)) {
                match length {
                    0 => to.shutdown(Shutdown::Write)?,
                    _ => to.write_all(&piece[..length])?,
                }
            }
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// Waits for as long as the delay says, then tells what to do with the piece; none if the connection is closed.
    fn hold_up(&self, number: u64) -> Option<Mode> {
        let state = self.state();
        let delay = state.delay;
        let is_held = |state: &mut State| {
            state.connections.contains_key(&number)
                && state.mode == Mode::Forward
                && state.delay == delay
        };
        let held = self.changed.wait_timeout_while(state, delay, is_held);
        let (state, _) = held.unwrap_or_else(PoisonError::into_inner);
        state.connections.contains_key(&number).then_some(state.mode)
    }
}

impl State {
    /// One direction of a connection has ended. The connection has when both did, or when one broke; but nobody is told
    /// of that while everything is swallowed.
    fn ended(&mut self, number: u64, is_broken: bool) {
        self.movers -= 1;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.directions -= 1;
        let is_told = is_broken && self.mode == Mode::Forward;
        if is_told || connection.directions == 0 {
            self.connections.remove(&number);
        }
    }
}

/// Twice as many threads: far more than a test needs, and far fewer than a system allows.
const CONNECTIONS_MAX: usize = 1_000;
/// What Linux hands over at once.
const PIECE_BYTES_MAX: usize = 64 << 10;
