//! The headers of a webhook: its signatures, one for each profile of the endpoint.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use pgw_webhook_client::{SeedSigner, SignedHeaders, StandardSigner, StripeSigner};

use crate::error::Error;
use crate::processor::Source;
use crate::secret::Secret;
use crate::timestamp::Timestamp;
use crate::webhook::{DeliveryWork, Profile, Signing, Vault};

/// Every header of one attempt but `host` and `content-length`. The id is the event's on every attempt; the
/// timestamp is this attempt's.
pub(super) fn headers(
    vault: &Vault,
    work: &DeliveryWork,
    at: Timestamp,
) -> Result<Vec<(Cow<'static, str>, String)>, Error> {
    let mut headers: Vec<(Cow<'static, str>, String)> = vec![
        (Cow::Borrowed("content-type"), "application/json".to_owned()),
        (Cow::Borrowed("user-agent"), USER_AGENT.to_owned()),
    ];
    let own = vault.headers(&work.endpoint).map_err(|error| Error::Unsigned(source(error)))?;
    headers
        .extend(own.expose().map(|(name, value)| (Cow::Owned(name.to_owned()), value.to_owned())));
    let signing =
        vault.signing(&work.endpoint, at).map_err(|error| Error::Unsigned(source(error)))?;
    for profile in work.endpoint.profiles.iter() {
        let signed = sign(work, &signing, profile, at).map_err(Error::Unsigned)?;
        headers.extend(signed.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)));
    }
    Ok(headers)
}

/// Signs in one profile. While the secret before a rotation still counts, profiles that carry a list of signatures carry both,
/// and the one that carries a single signature carries the old secret's, which every receiver knows.
fn sign(
    work: &DeliveryWork,
    signing: &Signing,
    profile: Profile,
    at: Timestamp,
) -> Result<SignedHeaders, Source> {
    let secret = signing.secret.expose();
    let old = signing.previous.as_ref().map(Secret::expose);
    let id = work.event.id.to_string();
    let since_epoch = Duration::from_micros(at.as_micros().unsigned_abs());
    let body = &work.event.body;
    let signed = match profile {
        Profile::Standard => {
            let mut signer = StandardSigner::new(secret).map_err(source)?;
            if let Some(old) = old {
                signer = signer.with_secret(old).map_err(source)?;
            }
            signer.sign(&id, since_epoch, body)
        }
        Profile::Seed => {
            let signer = SeedSigner::new(old.unwrap_or(secret)).map_err(source)?;
            signer.sign_event(&id, work.event.event_type.as_str(), since_epoch, body)
        }
        Profile::Stripe => {
            let mut signer = StripeSigner::new(secret).map_err(source)?;
            if let Some(old) = old {
                signer = signer.with_secret(old).map_err(source)?;
            }
            signer.sign(&id, since_epoch, body)
        }
    };
    signed.map_err(source)
}

fn source(error: impl std::error::Error + Send + Sync + 'static) -> Source {
    Arc::new(error)
}

const USER_AGENT: &str = concat!("pgw/", env!("CARGO_PKG_VERSION"));
