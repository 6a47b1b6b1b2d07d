//! `Redis`: a Redis server that can be killed and started again.

mod certificate;
mod client;
mod cluster;
mod configuration;
mod login;
mod sentinel;

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::account::Account;
use crate::directory::Directory;
use crate::error::ServerError;
use crate::port::Port;
use crate::process::Process;
use crate::program;

use self::certificate::Files;
use self::configuration::quoted;
use self::login::Login;

pub use self::cluster::{RedisCluster, RedisClusterBuilder};
pub use self::sentinel::RedisSentinel;

/// A Redis server of one's own, on a port of 127.0.0.1 and on a Unix socket. Dropping it kills it and removes all its
/// data.
///
/// It keeps nothing: whoever wants data to outlive a [`kill`](Self::kill) asks for it, as with
/// `with_setting("appendonly", "yes")` and `with_setting("appendfsync", "always")`.
#[derive(Debug)]
pub struct Redis {
    // Dropped before the directory.
    process: Process,
    directory: Directory,
    port: Port,
    program: PathBuf,
    account: Account,
    mode: Mode,
    login: Login,
    encryption: Encryption,
}

impl Redis {
    /// A server without persistence, password and TLS.
    pub const fn builder() -> RedisBuilder {
        RedisBuilder {
            settings: Vec::new(),
            mode: Mode::Server,
            login: Login::None,
            encryption: Encryption::None,
        }
    }

    /// The URL of database 0: `redis://127.0.0.1:<port>/0`, or `rediss:` with [TLS](RedisBuilder::with_tls), with the
    /// user and the password if there are any. It stays the same over [`restart`](Self::restart).
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.address())
    }

    /// The URL of database 0 for who reaches the server at `address`, as through a [`Proxy`](crate::Proxy).
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        let scheme = match self.encryption {
            Encryption::None => "redis",
            Encryption::Tls => "rediss",
        };
        format!("{scheme}://{}{address}/0", self.login.url_part())
    }

    /// Where the server listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The server's Unix socket, on which it speaks without TLS.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// Where the server keeps its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate, as PEM, that a client has to trust as an authority's; `None` without
    /// [TLS](RedisBuilder::with_tls).
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        match self.encryption {
            Encryption::None => None,
            Encryption::Tls => Some(Files::in_directory(self.directory.path()).authority),
        }
    }

    /// The last 200 lines of the log, since the last start.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log().tail()
    }

    /// Kills the server with SIGKILL, as a crash would, and waits until it is gone, and the process that saves for it
    /// too. Does nothing if it is down.
    ///
    /// # Errors
    /// [`ServerError::NotStopped`] when it is not gone after half a minute; [`ServerError::System`].
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.process.kill()
    }

    /// Shuts the server down, which then saves if it is set to. Does nothing if it is down.
    ///
    /// # Errors
    /// [`ServerError::NotStopped`] when it had to be killed after a minute; [`ServerError::System`].
    pub fn stop(&mut self) -> Result<(), ServerError> {
        self.process.stop(Signal::TERM, STOP_TIMEOUT)
    }

    /// Starts the server again on the same port with the same settings and what it has kept, and waits until it accepts
    /// connections. Shuts it down first if it runs.
    ///
    /// # Errors
    /// [`ServerError::Ended`] and [`ServerError::NotReady`] with the log when it does not start; else as
    /// [`stop`](Self::stop).
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop()?;
        self.process = start(self.account, &self.program, &self.directory, self.mode)?;
        Ok(())
    }
}

/// How a [`Redis`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct RedisBuilder {
    settings: Vec<(String, String)>,
    mode: Mode,
    login: Login,
    encryption: Encryption,
}

impl RedisBuilder {
    /// A directive as in redis.conf. The last value given for a name counts, unless Redis collects that directive's.
    /// The value is as it is written there, quotes included if it needs them; an empty one is written as `""`.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Lets only those in who know this password, as the user `default`.
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.login = Login::Password(password.into());
        self
    }

    /// Lets only this user in, who may do everything. `name` has no spaces.
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Login::User { name: name.into(), password: password.into() };
        self
    }

    /// Takes only TLS on the port, with a certificate for 127.0.0.1 and `localhost` by an
    /// [authority](Redis::authority) of its own, both made on the spot. Clients need no certificate.
    pub const fn with_tls(mut self) -> Self {
        self.encryption = Encryption::Tls;
        self
    }

    /// Creates the server in a directory of its own under [`std::env::temp_dir`], and waits until it accepts connections.
    ///
    /// # Errors
    /// [`ServerError::NotInstalled`], [`ServerError::NoSystemUser`], [`ServerError::PathTooLong`] and
    /// [`ServerError::NoPort`] say what to do; [`ServerError::Ended`] and [`ServerError::NotReady`] hold the log;
    /// [`ServerError::Certificate`]; [`ServerError::System`].
    pub fn start(self) -> Result<Redis, ServerError> {
        let program = program::redis_server()?;
        let account = Account::for_servers()?;
        let port = Port::reserve()?;
        let directory = Directory::create(account)?;
        if let Encryption::Tls = self.encryption {
            certificate::create(account, directory.path())?;
        }
        configuration::write(account, directory.path(), &self.configuration(&directory, &port))?;
        let process = start(account, &program, &directory, self.mode)?;
        let Self { mode, login, encryption, .. } = self;
        Ok(Redis { process, directory, port, program, account, mode, login, encryption })
    }

    /// redis.conf. Without a `logfile` the log goes to standard output.
    fn configuration(&self, directory: &Directory, port: &Port) -> String {
        let path = directory.path();
        let mut directives = vec![
            ("bind", "127.0.0.1".to_owned()),
            ("dir", quoted(path.as_os_str().as_bytes())),
            ("unixsocket", quoted(socket(directory).as_os_str().as_bytes())),
        ];
        match self.encryption {
            Encryption::None => directives.push(("port", port.number().to_string())),
            Encryption::Tls => {
                directives.extend([
                    ("port", "0".to_owned()),
                    ("tls-port", port.number().to_string()),
                    ("tls-auth-clients", "no".to_owned()),
                ]);
                directives.extend(Files::in_directory(path).directives());
            }
        }
        directives.extend(self.login.directives());
        // Sentinel has no data.
        if let Mode::Server = self.mode {
            directives.push(("save", String::new()));
        }
        let ours = directives.iter().map(|(name, value)| (*name, value.as_str()));
        let given = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        configuration::text(ours.chain(given))
    }
}

/// What `redis-server` is started as.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Server,
    Sentinel,
}

#[derive(Clone, Copy, Debug)]
enum Encryption {
    None,
    Tls,
}

fn start(
    account: Account,
    program: &Path,
    directory: &Directory,
    mode: Mode,
) -> Result<Process, ServerError> {
    let mut command = account.command(program, directory.path());
    command.arg(configuration::file(directory.path()));
    let (name, ready) = match mode {
        Mode::Server => ("redis-server", READY),
        Mode::Sentinel => {
            command.arg("--sentinel");
            ("redis-server --sentinel", READY_SENTINEL)
        }
    };
    let mut process = Process::spawn(name, &mut command, Some(ready))?;
    process.wait_ready(START_TIMEOUT)?;
    Ok(process)
}

fn socket(directory: &Directory) -> PathBuf {
    directory.path().join("redis.sock")
}

/// What the log says once it listens, and has loaded what it kept.
const READY: &str = "Ready to accept connections";
const READY_SENTINEL: &str = "Sentinel ID is";
/// It is there at once, unless it has much to load; this is for a starved machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A master waits up to ten seconds for its replicas, and saving takes its time on a slow disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
