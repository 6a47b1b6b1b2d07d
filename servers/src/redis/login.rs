//! `Login`: who is let into a Redis.

use std::fmt;

use crate::url::percent_encoded;

use super::configuration::quoted;

/// Who is let in.
#[derive(Clone)]
pub(super) enum Login {
    /// Everybody.
    None,
    /// The user `default`, with a password.
    Password(String),
    /// Only this user.
    User { name: String, password: String },
}

impl Login {
    /// What stands before the host in a URL. The name is there although it has a default: to `redis-cli` no name is an
    /// empty one.
    pub(super) fn url_part(&self) -> String {
        let (name, password) = match self {
            Self::None => return String::new(),
            Self::Password(password) => (DEFAULT, password),
            Self::User { name, password } => (name.as_str(), password),
        };
        let [name, password] = [name, password].map(|text| percent_encoded(text.as_bytes()));
        format!("{name}:{password}@")
    }

    pub(super) fn directives(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::None => Vec::new(),
            Self::Password(password) => vec![("requirepass", quoted(password.as_bytes()))],
            Self::User { name, password } => {
                let [name, password] = [name.clone(), format!(">{password}")];
                let [name, password] = [name, password].map(|text| quoted(text.as_bytes()));
                vec![
                    ("user", format!("{DEFAULT} off")),
                    ("user", format!("{name} on {password} ~* &* +@all")),
                ]
            }
        }
    }

    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::User { name, .. } => Some(name),
            Self::None | Self::Password(_) => None,
        }
    }

    pub(super) fn password(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Password(password) | Self::User { password, .. } => Some(password),
        }
    }
}

/// The user that every server has.
const DEFAULT: &str = "default";

/// Without the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Password(_) => f.debug_tuple("Password").finish_non_exhaustive(),
            Self::User { name, .. } => {
                f.debug_struct("User").field("name", name).finish_non_exhaustive()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_user_and_debug_not_the_password() {
        assert_eq!(Login::None.url_part(), "");
        let password = Login::Password("p@ss/1".to_owned());
        assert_eq!(password.url_part(), "default:p%40ss%2F1@");
        let user = Login::User { name: "app".to_owned(), password: "secret".to_owned() };
        assert_eq!(user.url_part(), "app:secret@");
        assert_eq!(format!("{password:?} {user:?}"), r#"Password(..) User { name: "app", .. }"#);
    }
}
