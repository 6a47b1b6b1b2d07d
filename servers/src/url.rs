//! The URL of a server behind a Unix socket.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A URL that libpq and sqlx understand alike. They take the socket's directory from `host`; the port is there against
/// `PGPORT`.
pub(crate) fn url(socket_directory: &Path) -> String {
    let mut url = format!("postgres://{USER}@localhost:{PORT}/{DATABASE}?host=");
    for &byte in socket_directory.as_os_str().as_bytes() {
        // The unreserved characters of RFC 3986, section 2.3.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            write!(url, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    url
}

/// The user, owner of everything.
pub(crate) const USER: &str = "pgw";
/// The database that initdb makes.
pub(crate) const DATABASE: &str = "postgres";
/// Only part of the socket's name, since nobody listens on it. That of PostgreSQL, so that clients need not be told.
pub(crate) const PORT: u16 = 5432;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_percent_encoded() {
        assert_eq!(
            url(Path::new("/tmp/a b&c=ü")),
            "postgres://pgw@localhost:5432/postgres?host=%2Ftmp%2Fa%20b%26c%3D%C3%BC"
        );
    }
}
