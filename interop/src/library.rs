//! The libraries that pgw is checked against.

use crate::profile::Profile;

/// A library, or the seed's function.
#[derive(Debug)]
pub(crate) struct Library {
    /// Its name, with the registry it comes from.
    pub(crate) name: &'static str,
    /// Its name in its peer.
    pub(crate) key: &'static str,
    /// Where it runs.
    pub(crate) host: Host,
    /// What it speaks.
    pub(crate) profile: Profile,
    /// What it can do.
    pub(crate) role: Role,
}

/// Where a library runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// `peers/peer.js`
    Node,
    /// `peers/peer.py`
    Python,
    /// Here.
    Rust,
}

impl Host {
    pub(crate) const ALL: [Self; 3] = [Self::Node, Self::Python, Self::Rust];
}

/// What a library can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sign and verify.
    Both,
    /// Only verify: it has no function that signs.
    Receiver,
}

/// All of them. Svix's wrap a `standardwebhooks` today, not always the same version, and need not tomorrow.
pub(crate) static LIBRARIES: [Library; 8] = [
    library("npm-standardwebhooks", "standardwebhooks", Host::Node, Profile::Standard, Role::Both),
    library("npm-svix", "svix", Host::Node, Profile::Standard, Role::Both),
    library("npm-stripe", "stripe", Host::Node, Profile::Stripe, Role::Both),
    library("seed-function", "seed", Host::Node, Profile::Seed, Role::Receiver),
    library(
        "pypi-standardwebhooks",
        "standardwebhooks",
        Host::Python,
        Profile::Standard,
        Role::Both,
    ),
    library("pypi-svix", "svix", Host::Python, Profile::Standard, Role::Both),
    library("pypi-stripe", "stripe", Host::Python, Profile::Stripe, Role::Both),
    library(
        "crate-standardwebhooks",
        "standardwebhooks",
        Host::Rust,
        Profile::Standard,
        Role::Both,
    ),
];

const fn library(
    name: &'static str,
    key: &'static str,
    host: Host,
    profile: Profile,
    role: Role,
) -> Library {
    Library { name, key, host, profile, role }
}
