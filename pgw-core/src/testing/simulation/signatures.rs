//! Signatures: which secrets a request verifies with, in each profile of its endpoint.

use std::time::Duration;

use pgw_webhook_client::{SeedVerifier, StandardVerifier, StripeVerifier};

use crate::secret::Secret;
use crate::timestamp::Timestamp;
use crate::webhook::{Profile, Profiles, WebhookRequest};

/// What a webhook may be signed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secrets<'s> {
    /// The endpoint's own.
    pub(super) current: &'s Secret,
    /// The one that it was rotated from, if there is one.
    pub(super) old: Option<&'s Secret>,
    /// Until when the old one signs too, if it does at all.
    pub(super) until: Option<Timestamp>,
}

/// Whether the old secret signs at the time that a request claims. The three values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlap {
    On,
    Off,
    /// The request's second is the one in which it ends.
    Ending,
}

/// Whether a request is signed in every profile as it has to be: by the current secret, and while the overlap lasts by the old one too.
/// The one profile with room for a single signature then has the old one's, which every receiver knows.
pub(super) fn check(
    request: &WebhookRequest,
    profiles: Profiles,
    secrets: Secrets<'_>,
) -> Result<(), String> {
    for profile in profiles.iter() {
        let at = claimed(request, profile)
            .ok_or_else(|| format!("it has no {} timestamp", profile.as_str()))?;
        let current = verifies(request, profile, at, secrets.current);
        let old = secrets.old.is_some_and(|old| verifies(request, profile, at, old));
        let is_right = match overlap(at, secrets.until) {
            Overlap::On => old && current == (profile != Profile::Seed),
            Overlap::Off => current && !old,
            Overlap::Ending => current || old,
        };
        if !is_right {
            let (name, phase) = (profile.as_str(), overlap(at, secrets.until));
            return Err(format!(
                "{name}: by the current secret {current}, by the old one {old}, overlap {phase:?}"
            ));
        }
    }
    Ok(())
}

fn overlap(at: Duration, until: Option<Timestamp>) -> Overlap {
    let Some(until) = until else { return Overlap::Off };
    // Two of the profiles tell whole seconds, and it was signed somewhere within.
    let second = Timestamp::EPOCH.plus(Duration::from_secs(at.as_secs()));
    if second.plus(Duration::from_secs(1)) <= until {
        Overlap::On
    } else if until <= second {
        Overlap::Off
    } else {
        Overlap::Ending
    }
}

/// The time that a request claims in a profile.
fn claimed(request: &WebhookRequest, profile: Profile) -> Option<Duration> {
    match profile {
        Profile::Standard => {
            header(request, "webhook-timestamp")?.parse().ok().map(Duration::from_secs)
        }
        Profile::Seed => {
            header(request, "x-webhook-timestamp")?.parse().ok().map(Duration::from_millis)
        }
        Profile::Stripe => {
            let (time, _) =
                header(request, "stripe-signature")?.strip_prefix("t=")?.split_once(',')?;
            time.parse().ok().map(Duration::from_secs)
        }
    }
}

/// As of the time that it claims: in a world whose clocks jump there is no other.
fn verifies(request: &WebhookRequest, profile: Profile, at: Duration, secret: &Secret) -> bool {
    let (secret, headers, body) = (secret.expose(), &request.headers[..], &request.body);
    match profile {
        Profile::Standard => {
            StandardVerifier::new(secret).is_ok_and(|v| v.verify_at(at, headers, body).is_ok())
        }
        Profile::Seed => {
            SeedVerifier::new(secret).is_ok_and(|v| v.verify_at(at, headers, body).is_ok())
        }
        Profile::Stripe => {
            StripeVerifier::new(secret).is_ok_and(|v| v.verify_at(at, headers, body).is_ok())
        }
    }
}

fn header<'r>(request: &'r WebhookRequest, name: &str) -> Option<&'r str> {
    let found = request.headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_ends_within_a_second() {
        let at = |seconds: u64| Duration::from_secs(seconds);
        let until = |millis: u64| Some(Timestamp::EPOCH.plus(Duration::from_millis(millis)));
        assert_eq!(overlap(at(9), None), Overlap::Off);
        assert_eq!(overlap(at(9), until(10_000)), Overlap::On);
        assert_eq!(overlap(at(9), until(9_500)), Overlap::Ending);
        assert_eq!(overlap(at(9), until(9_000)), Overlap::Off);
    }
}
