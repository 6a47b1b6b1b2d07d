//! Reads the layers: command line, environment, file, defaults.

use std::collections::BTreeMap;
use std::env::VarError;
use std::path::{Path, PathBuf};

use pgw_core::secret::Secret;

use super::setting::{
    ALL, REDIS_CA_FILE, REDIS_HOST, REDIS_PASSWORD, REDIS_SENTINEL_MASTER, REDIS_URL, REDIS_USER,
    Setting, Sight, by_key,
};
use super::{Config, ConfigError, Origin, Value};

/// Where values may come from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// `KEY=VALUE` of the command line, in its order.
    pub(crate) flags: Vec<String>,
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
}

/// Reads everything.
///
/// # Errors
/// [`ConfigError`].
pub(crate) fn load(
    sources: &Sources,
    variable: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Config, ConfigError> {
    let mut config = Config { values: BTreeMap::new(), warnings: Vec::new() };
    for setting in ALL {
        if let Some(default) = setting.default {
            config.put(setting, default, Origin::Default);
        }
    }
    if let Some(path) = &sources.file {
        read_file(&mut config, path)?;
    }
    for setting in ALL {
        read_environment(&mut config, setting, &variable)?;
    }
    for flag in &sources.flags {
        let (key, text) = flag.split_once('=').ok_or(ConfigError::Malformed)?;
        let unknown = || ConfigError::Unknown { key: key.to_owned(), origin: Origin::Flag };
        let setting = by_key(key).ok_or_else(unknown)?;
        if setting.sight == Sight::Secret {
            return Err(ConfigError::SecretFlag(setting.key));
        }
        config.put(setting, text, Origin::Flag);
    }
    if [REDIS_URL, REDIS_HOST].iter().all(|address| config.text(address).is_none()) {
        let idle = [REDIS_USER, REDIS_PASSWORD, REDIS_CA_FILE, REDIS_SENTINEL_MASTER];
        let set = idle.iter().filter(|setting| config.text(setting).is_some());
        let warn = |setting: &Setting| {
            format!("{} does nothing without redis.url or redis.host", setting.key)
        };
        let warnings: Vec<String> = set.map(warn).collect();
        config.warnings.extend(warnings);
    }
    Ok(config)
}

impl Config {
    fn put(&mut self, setting: &Setting, text: &str, origin: Origin) {
        self.values.insert(setting.key, Value { text: Secret::new(text), origin });
    }
}

fn read_environment(
    config: &mut Config,
    setting: &Setting,
    variable: &impl Fn(&str) -> Result<String, VarError>,
) -> Result<(), ConfigError> {
    for name in setting.env.iter().copied().chain(setting.misspelt) {
        let direct = present(setting, name, variable(name))?;
        let file_name = format!("{name}_FILE");
        let file = present(setting, name, variable(&file_name))?;
        let (text, origin) = match (direct, file) {
            (None, None) => continue,
            (Some(_), Some(_)) => {
                return Err(ConfigError::Value {
                    key: setting.key,
                    origin: Origin::Env(name),
                    message: format!("both {name} and {file_name} are set; keep one"),
                });
            }
            (Some(text), None) => (text, Origin::Env(name)),
            (None, Some(path)) => {
                let path = PathBuf::from(path);
                (
                    read(&path)?.trim_end_matches(['\n', '\r']).to_owned(),
                    Origin::EnvFile(file_name, path),
                )
            }
        };
        if setting.misspelt == Some(name) {
            let right = setting.env.first().copied().unwrap_or(setting.key);
            config.warnings.push(format!("{name} is a misspelt name, read as {right}; use that"));
        }
        config.put(setting, &text, origin);
        break;
    }
    Ok(())
}

/// A variable that is set. An empty one counts as not set, as in files made from templates.
fn present(
    setting: &Setting,
    name: &'static str,
    value: Result<String, VarError>,
) -> Result<Option<String>, ConfigError> {
    match value {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(ConfigError::Value {
            key: setting.key,
            origin: Origin::Env(name),
            message: "must be UTF-8".to_owned(),
        }),
    }
}

fn read_file(config: &mut Config, path: &Path) -> Result<(), ConfigError> {
    let text = read(path)?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // Without the line itself, which may hold a secret.
        let line =
            error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
        ConfigError::Unreadable {
            path: path.to_owned(),
            message: format!("line {line}: {}", error.message()),
        }
    })?;
    let mut flat = Vec::new();
    flatten("", table, &mut flat);
    for (key, value) in flat {
        let origin = Origin::File(path.to_owned());
        let Some(setting) = by_key(&key) else {
            return Err(ConfigError::Unknown { key, origin });
        };
        let text = as_text(&value).ok_or_else(|| ConfigError::Value {
            key: setting.key,
            origin: origin.clone(),
            message: "must be a text, a number, true, false, or a list of texts".to_owned(),
        })?;
        config.put(setting, &text, origin);
    }
    Ok(())
}

fn flatten(prefix: &str, table: toml::Table, into: &mut Vec<(String, toml::Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, into),
            value => into.push((key, value)),
        }
    }
}

fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |message: String| ConfigError::Unreadable { path: path.to_owned(), message };
    let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unreadable(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

/// Largest file that is read: many times a configuration with every setting.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::setting::{DATABASE_PASSWORD, PORT, RATE_LIMIT};
    use super::*;

    fn with(
        variables: &[(&str, &str)],
        file: Option<&Path>,
        flags: &[&str],
    ) -> Result<Config, ConfigError> {
        let sources = Sources {
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            file: file.map(Path::to_owned),
        };
        load(&sources, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| (*text).to_owned()).ok_or(VarError::NotPresent)
        })
    }

    /// A file of its own, removed when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pgw-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn flags_beat_variables_beat_the_file_beats_defaults() {
        let file = Scratch::new("order.toml", "[server]\nport = 1\n");
        let port = |config: &Config| config.require::<u16>(&PORT).unwrap();
        assert_eq!(port(&with(&[], None, &[]).unwrap()), 3000);
        assert_eq!(port(&with(&[], Some(&file.0), &[]).unwrap()), 1);
        assert_eq!(port(&with(&[("PORT", "2")], Some(&file.0), &[]).unwrap()), 2);
        let all = with(&[("PORT", "2")], Some(&file.0), &["server.port=3"]).unwrap();
        assert_eq!(port(&all), 3);
        assert_eq!(all.value(&PORT).unwrap().origin, Origin::Flag);
        assert_eq!(port(&with(&[("PORT", "")], None, &[]).unwrap()), 3000);
    }

    #[test]
    fn misspelt_names_are_read_with_a_warning() {
        let config = with(&[("RATIONALE_LIMIT", "7")], None, &[]).unwrap();
        assert_eq!(config.require::<u32>(&RATE_LIMIT).unwrap(), 7);
        assert!(config.warnings[0].contains("RATE_LIMIT"));
        let both = with(&[("RATIONALE_LIMIT", "7"), ("RATE_LIMIT", "8")], None, &[]).unwrap();
        assert_eq!((both.require::<u32>(&RATE_LIMIT).unwrap(), both.warnings.len()), (8, 0));
    }

    #[test]
    fn what_belongs_to_a_redis_that_nobody_named_is_told() {
        let config = with(&[("REDIS_PASSWORD", "hunter2")], None, &[]).unwrap();
        let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert!(warning.starts_with("redis.password") && !warning.contains("hunter2"), "{warning}");
        let named = [("REDIS_PASSWORD", "hunter2"), ("REDIS_HOST", "cache.internal")];
        assert!(with(&named, None, &[]).unwrap().warnings.is_empty());
    }

    #[test]
    fn secrets_come_from_files_and_never_from_the_command_line() {
        let file = Scratch::new("password", "hunter2\n");
        let path = file.0.to_str().unwrap();
        let config = with(&[("DB_PASSWORD_FILE", path)], None, &[]).unwrap();
        assert_eq!(config.secret(&DATABASE_PASSWORD).unwrap().expose(), "hunter2");
        assert!(!format!("{config:?} {}", config.shown(&DATABASE_PASSWORD)).contains("hunter2"));
        let both = with(&[("DB_PASSWORD_FILE", path), ("DB_PASSWORD", "x")], None, &[]);
        assert!(both.unwrap_err().to_string().contains("keep one"));
        let flag = with(&[], None, &["database.password=hunter2"]).unwrap_err();
        assert!(
            matches!(flag, ConfigError::SecretFlag(_)) && !flag.to_string().contains("hunter2")
        );
    }

    #[test]
    fn what_is_unknown_or_wrong_is_named_without_its_value() {
        let unknown = with(&[], None, &["server.prot=1"]).unwrap_err().to_string();
        assert!(unknown.contains("server.prot"), "{unknown}");
        let file = Scratch::new("wrong.toml", "[secrets]\napi_key_pepper = hunter2\n");
        let error = with(&[], Some(&file.0), &[]).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        let port = with(&[("PORT", "many")], None, &[]).unwrap().require::<u16>(&PORT);
        assert!(port.unwrap_err().to_string().starts_with("server.port (environment, PORT)"));
    }
}
