//! `Proxy`: a way to a server that can be cut, slow, or dead at the other end.

mod connection;
mod entrance;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::ServerError;
use crate::port::Port;

use self::connection::Connection;
use self::entrance::Entrance;

/// A TCP proxy on a port of 127.0.0.1 that passes on what it is given until told otherwise. Dropping it closes all its
/// connections.
///
/// ```no_run
/// use std::time::Duration;
///
/// use servers::{Proxy, Redis};
///
/// let redis = Redis::builder().start()?;
/// let mut proxy = Proxy::start(redis.address())?;
/// println!("{}", redis.url_through(proxy.address()));
/// proxy.delay(Duration::from_millis(200));
/// proxy.half_open();
/// proxy.cut();
/// proxy.heal()?;
/// # Ok::<(), servers::ServerError>(())
/// ```
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    target: SocketAddr,
    shared: Arc<Shared>,
    /// None while it is cut.
    entrance: Option<Entrance>,
}

impl Proxy {
    /// A proxy in front of `target`, which need not be there yet: a connection is closed at once if nobody listens.
    ///
    /// It has at most 1,000 connections, and closes what comes beyond.
    ///
    /// # Errors
    /// [`ServerError::NoPort`]; [`ServerError::NotReady`] when somebody else listens on the port for half a minute; [`ServerError::System`].
    pub fn start(target: SocketAddr) -> Result<Self, ServerError> {
        let port = Port::reserve()?;
        let shared = Arc::new(Shared::default());
        let entrance = Some(Entrance::open(port.address(), target, &shared)?);
        Ok(Self { port, target, shared, entrance })
    }

    /// Where the proxy listens. It stays the same when it is [cut](Self::cut) and [healed](Self::heal).
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Closes all connections, and refuses new ones. Nothing that it had not passed on yet arrives any more.
    pub fn cut(&mut self) {
        // First nobody comes in any more, then those that did are sent away.
        drop(self.entrance.take());
        self.shared.close_all();
    }

    /// From now on every piece of what either side says is held up for `duration`; what is said meanwhile goes with the
    /// next piece, which is at most 64 KiB. Replaces the delay before.
    pub fn delay(&self, duration: Duration) {
        self.shared.change(|state| state.delay = duration);
    }

    /// From now on both sides speak to nobody: the connections stay and new ones are made, but whatever is said is
    /// swallowed, the end of a side too. That is what a machine without power looks like from the other end, or a
    /// firewall that has forgotten a connection.
    pub fn half_open(&self) {
        self.shared.change(|state| state.mode = Mode::Swallow);
    }

    /// From now on everything is passed on at once. Connections that were [half open](Self::half_open) are closed, since
    /// what they swallowed is missing.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] or [`ServerError::System`] when it cannot listen again after it was [cut](Self::cut).
    pub fn heal(&mut self) -> Result<(), ServerError> {
        self.shared.heal();
        if self.entrance.is_none() {
            let address = self.port.address();
            self.entrance = Some(Entrance::open(address, self.target, &self.shared)?);
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

/// What the threads of a proxy share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    delay: Duration,
    connections: HashMap<u64, Connection>,
    /// The number of the next connection.
    number: u64,
    /// How many threads still move something.
    movers: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Forward,
    Swallow,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn heal(&self) {
        self.change(|state| {
            if state.mode == Mode::Swallow {
                state.connections.clear();
            }
            (state.mode, state.delay) = (Mode::Forward, Duration::ZERO);
        });
    }

    /// Closes all connections, and waits until nothing moves.
    fn close_all(&self) {
        self.change(|state| state.connections.clear());
        let state = self.state();
        drop(self.changed.wait_while(state, |state| state.movers > 0));
    }
}
