//! Configuration: flags before the environment before a file before defaults, each value with where it is from.

mod layers;
pub(crate) mod setting;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use pgw_core::secret::Secret;
use url::Url;

pub(crate) use layers::{Sources, load};
pub(crate) use setting::{Setting, Sight};

/// Every value, with its origin.
#[derive(Debug)]
pub(crate) struct Config {
    values: BTreeMap<&'static str, Value>,
    /// What is worth telling whoever runs this: misspelt names, settings that do nothing.
    pub(crate) warnings: Vec<String>,
}

/// A value and where it is from. Kept as a secret, whatever it is, so that no `Debug` shows one.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    text: Secret,
    pub(crate) origin: Origin,
}

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// A variable.
    Env(&'static str),
    /// The file that a variable names.
    EnvFile(String, PathBuf),
    /// The configuration file.
    File(PathBuf),
    /// Nobody said.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Env(name) => write!(f, "environment, {name}"),
            Self::EnvFile(name, path) => write!(f, "{} (by {name})", path.display()),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting that cannot be used. Holds no value of a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A value does not parse.
    #[error("{key} ({origin}): {message}")]
    Value {
        /// The setting.
        key: &'static str,
        /// Where its value is from.
        origin: Origin,
        /// What is wrong.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {key}; `pgw config explain` lists them")]
    Unknown {
        /// Its key.
        key: String,
        /// Where it stands.
        origin: Origin,
    },
    /// A secret on the command line.
    #[error(
        "{0} is a secret: every user of this machine can read a command line. Put it into the environment or a file"
    )]
    SecretFlag(&'static str),
    /// `--set` without `=`.
    #[error("--set wants KEY=VALUE")]
    Malformed,
    /// A file cannot be read.
    #[error("{path}: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

impl Config {
    /// A value as text; `None` when nobody gave one and there is no default.
    pub(crate) fn text(&self, setting: &Setting) -> Option<&str> {
        self.values.get(setting.key).map(|value| value.text.expose())
    }

    /// A value with its origin.
    pub(crate) fn value(&self, setting: &Setting) -> Option<&Value> {
        self.values.get(setting.key)
    }

    /// A secret.
    pub(crate) fn secret(&self, setting: &Setting) -> Option<Secret> {
        self.values.get(setting.key).map(|value| value.text.clone())
    }

    /// A value read as a `T`.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn get<T: FromStr<Err: fmt::Display>>(
        &self,
        setting: &Setting,
    ) -> Result<Option<T>, ConfigError> {
        self.read(setting, |text| text.parse::<T>().map_err(|error| error.to_string()))
    }

    /// A value read by `parse`, whose error says what it must be.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn read<T>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.values.get(setting.key) else { return Ok(None) };
        let parsed = parse(value.text.expose().trim());
        parsed.map(Some).map_err(|message| self.wrong(setting, message))
    }

    /// A value that has a default.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    ///
    /// # Panics
    /// When the setting has no default, which is a mistake in the code.
    pub(crate) fn require<T: FromStr<Err: fmt::Display>>(
        &self,
        setting: &Setting,
    ) -> Result<T, ConfigError> {
        let value = self.get(setting)?;
        Ok(value.expect("asked only for settings with a default"))
    }

    /// A duration such as `90s`, `15m` or `1h 30m`.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn duration(
        &self,
        setting: &Setting,
    ) -> Result<Option<std::time::Duration>, ConfigError> {
        self.read(setting, |text| humantime::parse_duration(text).map_err(|e| e.to_string()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn flag(&self, setting: &Setting) -> Result<bool, ConfigError> {
        let read = self.read(setting, |text| match text {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" | "" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        });
        Ok(read?.unwrap_or(false))
    }

    /// A share of all, from 0 to 1; none without a value.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    #[cfg(any(feature = "otel", feature = "sentry"))]
    pub(crate) fn share(&self, setting: &Setting) -> Result<f64, ConfigError> {
        let read = self.read(setting, |text| {
            let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
        });
        Ok(read?.unwrap_or_default())
    }

    /// A list separated by commas; empty when there is none.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn list<T: FromStr<Err: fmt::Display>>(
        &self,
        setting: &Setting,
    ) -> Result<Vec<T>, ConfigError> {
        let parts = self.read(setting, |text| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| part.parse().map_err(|e| format!("{part}: {e}"))).collect()
        })?;
        Ok(parts.unwrap_or_default())
    }

    /// What is wrong with a setting's value.
    pub(crate) fn wrong(&self, setting: &Setting, message: impl Into<String>) -> ConfigError {
        let origin = self.values.get(setting.key).map_or(Origin::Default, |v| v.origin.clone());
        ConfigError::Value { key: setting.key, origin, message: message.into() }
    }

    /// A value as it may be shown.
    pub(crate) fn shown(&self, setting: &Setting) -> String {
        match (self.text(setting), setting.sight) {
            (None, _) => "(not set)".to_owned(),
            (Some(text), Sight::Plain) => text.to_owned(),
            (Some(text), Sight::Secret) => mask(text),
        }
    }
}

/// A secret's shape: of the URLs of a server where they lead, of anything else how long it is.
fn mask(text: &str) -> String {
    // All or none: a comma in a password makes parts of which the first may look like a host.
    let places: Option<Vec<String>> = text.split(',').map(place).collect();
    places
        .map_or_else(|| format!("({} characters)", text.chars().count()), |places| places.join(","))
}

/// Where the URL of a server leads, without who is to be let in.
fn place(text: &str) -> Option<String> {
    let url = Url::parse(text.trim()).ok()?;
    if !matches!(url.scheme(), "postgres" | "postgresql" | "redis" | "rediss") {
        return None;
    }
    // An @ that is none of the URL's own is a part of a password whose / or ? ended the address early.
    let is_split = url.path().contains('@')
        || (text.contains('@') && url.username().is_empty() && url.password().is_none());
    let host = url.host_str().filter(|_| !is_split)?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{}://…@{host}{port}{}", url.scheme(), url.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_show_no_secret() {
        let url = "postgres://pg_user:p%40ss@db.internal:5432/shop?password=hid@den";
        assert_eq!(mask(url), "postgres://…@db.internal:5432/shop");
        assert_eq!(mask("a://hunter2"), "(11 characters)");
        assert_eq!(mask("postgres://db.internal/shop"), "postgres://…@db.internal/shop");
        assert_eq!(mask("hunter2"), "(7 characters)");
        let nodes = "rediss://:hunter2@a.internal:7000,redis://b.internal";
        assert_eq!(mask(nodes), "rediss://…@a.internal:7000,redis://…@b.internal");
        // A comma that should have been written %2C.
        assert_eq!(mask("redis://user:123,hunter2@host"), "(29 characters)");
        for split in ["redis://app:12/34@host", "redis://app:12?34@host", "redis://a:b@12/3@host"] {
            assert_eq!(mask(split), format!("({} characters)", split.len()), "{split}");
        }
    }
}
