//! redis.conf: how it is written.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::ServerError;

/// The file of a server in `directory`.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("redis.conf")
}

/// Writes the file for `account` alone, since passwords are in it, and what is on a command line is everybody's to see.
pub(super) fn write(account: Account, directory: &Path, text: &str) -> Result<(), ServerError> {
    write_file(account, &file(directory), text)
}

/// Creates a file that only `account` may read.
pub(super) fn write_file(account: Account, path: &Path, text: &str) -> Result<(), ServerError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(ServerError::system(format!("write {}", path.display())))?;
    account.own(path)
}

/// One directive a line; no value is the empty string.
pub(super) fn text<'a>(directives: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in directives {
        let value = if value.is_empty() { "\"\"" } else { value };
        writeln!(text, "{name} {value}").expect("writing to a string does not fail");
    }
    text
}

/// A value that Redis takes for these bytes, whatever they are.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' {
            quoted.push(char::from(byte));
        } else {
            write!(quoted, "\\x{byte:02x}").expect("writing to a string does not fail");
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_ends_a_value_early_is_escaped() {
        assert_eq!(quoted(b"/tmp/pgw-1-0/redis.sock"), "\"/tmp/pgw-1-0/redis.sock\"");
        assert_eq!(quoted("a \"b\\\nü".as_bytes()), r#""a\x20\x22b\x5c\x0a\xc3\xbc""#);
        assert_eq!(text([("save", ""), ("save", "900 1")].into_iter()), "save \"\"\nsave 900 1\n");
    }
}
