//! The URLs of servers: of PostgreSQL's behind a Unix socket, and how any of them escapes what it holds.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A URL that libpq and sqlx understand alike. They take the socket's directory from `host`; the port is there against
/// `PGPORT`.
pub(crate) fn url(socket_directory: &Path) -> String {
    let directory = percent_encoded(socket_directory.as_os_str().as_bytes());
    format!("postgres://{USER}@localhost:{PORT}/{DATABASE}?host={directory}")
}

/// Everything but the unreserved characters of RFC 3986, section 2.3, as `%XX`.
pub(crate) fn percent_encoded(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    encoded
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
