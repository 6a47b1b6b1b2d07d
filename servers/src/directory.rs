//! `Directory`: a server's own directory, and the process that removes it whatever happens to its owner.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use crate::account::Account;
use crate::error::ServerError;
use crate::url::PORT;

/// A directory for a server's files and its socket, for the server's user only.
///
/// A shell waits for the end of its standard input, which comes when this is dropped or this process ends, in whatever
/// way. It then ends every process that still works in the directory, and removes the directory; or empties it, if this
/// process was killed as root and only root may write where the directory is.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    cleaner: Child,
}

impl Directory {
    pub(crate) fn create(account: Account) -> Result<Self, ServerError> {
        let path = create_directory()?;
        match account.own(&path).and_then(|()| start_cleaner(account, &path)) {
            Ok(cleaner) => Ok(Self { path, cleaner }),
            Err(error) => {
                // The first error says more.
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        // There is nobody to tell; what is still there then gets a second chance.
        let _ = self.cleaner.wait();
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn create_directory() -> Result<PathBuf, ServerError> {
    // The servers and the cleaner run elsewhere.
    let root = std::path::absolute(env::temp_dir())
        .map_err(ServerError::system("tell the current directory"))?;
    for _ in 0..NAMES_MAX {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("pgw-{}-{number}", process::id()));
        // The longest path to a socket, which is that to a pair's.
        let socket = path.join(format!("primary/.s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(ServerError::PathTooLong(path));
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(ServerError::system(format!("create {}", path.display()))(error));
            }
        }
    }
    let error = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(ServerError::system(format!("create a directory in {}", root.display()))(error))
}

fn start_cleaner(account: Account, directory: &Path) -> Result<Child, ServerError> {
    account
        .command(Path::new("/bin/sh"), Path::new("/"))
        .args(["-c", CLEANER, "sh"])
        .arg(directory)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(ServerError::system("start /bin/sh"))
}

/// The number of the next directory. None is used twice: a directory that is being removed must not be mistaken for a
/// new one.
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// How many names are tried. A name is only taken by the leftovers of an earlier process with our number.
const NAMES_MAX: u32 = 1_000;
/// What the address of a Unix socket has room for on Linux, without the zero at its end; see unix(7).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Run as the servers' user, so that it can end their processes. A process that works in the directory was started by
/// us or forked by one that was. PostgreSQL takes SIGQUIT for an immediate shutdown, which gives back the System V
/// shared memory that SIGKILL would leave in the kernel; where that happened before, the seventh line of postmaster.pid
/// names it.
const CLEANER: &str = include_str!("clean.sh");
