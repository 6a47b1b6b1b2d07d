//! `Port`: a TCP port of the loopback interface that is a server's own for as long as it lives.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::process;

use crate::error::ServerError;

/// A TCP port of 127.0.0.1. Nobody who asks for one here, in whatever process, gets it while this lives, whether the
/// server that it is for runs or not.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// An abstract socket named after the port: names are as unique as ports are, in the same network namespace, and
    /// the kernel lets go of one when the last process that has it ends.
    _claim: UnixListener,
}

impl Port {
    pub(crate) fn reserve() -> Result<Self, ServerError> {
        // Processes start at different places, so that they seldom try what another one has.
        let count = RANGE.end - RANGE.start;
        let offset = process::id() % u32::from(count) * SPREAD % u32::from(count);
        let offset = u16::try_from(offset).expect("it is less than the count, which is a u16");
        for number in (RANGE.start + offset..RANGE.end).chain(RANGE.start..RANGE.start + offset) {
            if let Some(port) = Self::claim(number)? {
                return Ok(port);
            }
        }
        Err(ServerError::NoPort { first: RANGE.start, last: RANGE.end - 1 })
    }

    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        address(self.number)
    }

    /// None if it is somebody else's.
    fn claim(number: u16) -> Result<Option<Self>, ServerError> {
        let name = UnixAddr::from_abstract_name(format!("pgw-port-{number}"))
            .map_err(ServerError::system("name a socket"))?;
        let Ok(claim) = UnixListener::bind_addr(&name) else { return Ok(None) };
        // Somebody may listen who has never heard of these names, or the server of an owner that has just been killed.
        let is_free = TcpListener::bind(address(number)).is_ok();
        Ok(is_free.then_some(Self { number, _claim: claim }))
    }
}

const fn address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Below what Linux gives to connections that go out, 32768 to 60999 unless `ip_local_port_range` was changed: such a
/// connection must not sit on the port of a server that is down for a moment.
const RANGE: Range<u16> = 20_000..30_000;
/// More than the ports of all servers that one process usually has.
const SPREAD: u32 = 61;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_nobody_elses_until_it_is_given_back() {
        let ports: Vec<_> = (0..10).map(|_| Port::reserve().expect("ports are free")).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10);
        assert!(numbers.iter().all(|number| RANGE.contains(number)));
        for &number in &numbers {
            assert!(Port::claim(number).expect("names are valid").is_none());
        }
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_taken() {
        let port = Port::reserve().expect("ports are free");
        let stranger = TcpListener::bind(port.address()).expect("it is free");
        let number = port.number();
        drop(port);
        assert!(Port::claim(number).expect("names are valid").is_none());
        drop(stranger);
    }
}
