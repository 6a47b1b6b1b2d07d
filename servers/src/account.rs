//! `Account`: the user that the servers run as.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::error::ServerError;

/// The user that the servers run as: PostgreSQL and PgBouncer refuse to run as root, and Redis has no need to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// This process's own user.
    Own,
    /// Another one, which takes root to become.
    Other { uid: u32, gid: u32 },
}

impl Account {
    pub(crate) fn for_servers() -> Result<Self, ServerError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let users = fs::read_to_string("/etc/passwd")
            .map_err(ServerError::system("read the users from /etc/passwd"))?;
        users.lines().find_map(system_user).ok_or(ServerError::NoSystemUser)
    }

    /// A command that runs as this user in `directory`, away from the terminal's Ctrl-C. It inherits nothing of the
    /// environment but where programs are: variables like `PGPORT`, `LC_MESSAGES` or `TZ` would make servers differ
    /// from one machine to the next.
    pub(crate) fn command(self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir(directory);
        if let Some(path) = env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Makes this user the owner of what this process created.
    pub(crate) fn own(self, path: &Path) -> Result<(), ServerError> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)).map_err(
                ServerError::system(format!("give {} to the user postgres", path.display())),
            ),
        }
    }
}

/// The account in a line of passwd(5), if it is that of `postgres`.
fn system_user(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    if fields.next() != Some("postgres") {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account::Other { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_user_is_found_by_its_whole_name() {
        assert!(system_user("postgresql:x:1:2::/:/bin/sh").is_none());
        assert!(system_user("root:x:0:0:postgres:/root:/bin/sh").is_none());
        assert!(matches!(
            system_user(
                "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash"
            ),
            Some(Account::Other { uid: 101, gid: 104 })
        ));
    }
}
