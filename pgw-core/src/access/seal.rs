//! Seals: the audit log's rows in an append-only chain, so that who changes, removes or replaces one is found out. Made in the
//! background, so that those who write rows never wait for each other.
//!
//! # The chain
//! A merchant's seals are counted from 1. Each holds the digests of up to [`AuditSeal::ROWS_MAX`] rows, the authentication code of the
//! seal before it, and its own, which covers all of that. The code's key is derived from the [`Pepper`], which is kept outside of the
//! database: who can write every table but has no pepper cannot make another chain that holds.
//!
//! # The bytes
//! A row's digest is SHA-256 of `pgw audit row 1` and then each field, preceded by its length in bytes (64 bits, big-endian): id,
//! merchant, mode, time (microseconds, 64 bits, big-endian), kind of actor, actor, action, outcome, origin, object, request id, and for
//! each change its field, old and new value. A value that is absent has the length 2⁶⁴ − 1 and no bytes. A seal's code is HMAC-SHA256 of
//! `pgw audit seal 1` and in the same way: merchant, number, the code before, the place it goes through (time, id), when it was made, and
//! its rows (time, id, digest) one after another. The key is HMAC-SHA256 of `pgw audit seals 1` under the pepper.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::access::{AuditRow, Pepper};
use crate::id::AuditId;
use crate::page::Cursor;
use crate::scope::MerchantId;
use crate::timestamp::Timestamp;

/// A link of a merchant's chain: rows of the audit log as they were when it was made. Written once, never changed.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditSeal {
    /// Whose rows they are, of both modes.
    pub merchant: MerchantId,
    /// Its place in the chain, from 1.
    pub number: u64,
    /// The code of the seal before; zeros for the first.
    pub previous: [u8; 32],
    /// Every row up to this place was looked at when it was made. It is that of the seal before when this one holds late rows.
    pub through: Cursor,
    /// When it was made.
    pub sealed_at: Timestamp,
    /// The rows, in the order of their places.
    pub rows: Vec<SealedRow>,
    /// The authentication code of all of that.
    pub mac: [u8; 32],
}

impl AuditSeal {
    /// Most rows of a seal: 56 KB, and one page of the log.
    pub const ROWS_MAX: usize = 1_000;

    /// A seal after `head`, with its code.
    #[must_use]
    pub fn new(
        key: &SealKey,
        merchant: MerchantId,
        head: Option<&SealHead>,
        through: Cursor,
        sealed_at: Timestamp,
        rows: Vec<SealedRow>,
    ) -> Self {
        let (last, previous) = head.map_or((0, [0; 32]), |head| (head.number, head.mac));
        let number = last.saturating_add(1);
        let mut seal = Self { merchant, number, previous, through, sealed_at, rows, mac: [0; 32] };
        seal.mac = key.code(&seal);
        seal
    }

    /// Whether it is as it was made, in time that does not depend on how much of its code matches.
    #[must_use]
    pub fn is_genuine(&self, key: &SealKey) -> bool {
        key.code(self).ct_eq(&self.mac).into()
    }

    /// What the next one begins with.
    #[must_use]
    pub const fn head(&self) -> SealHead {
        SealHead { number: self.number, mac: self.mac, through: self.through }
    }
}

impl fmt::Debug for AuditSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditSeal")
            .field("merchant", &self.merchant)
            .field("number", &self.number)
            .field("through", &self.through)
            .field("sealed_at", &self.sealed_at)
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}

/// A row as a seal holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedRow {
    /// The row's time.
    pub at: Timestamp,
    /// The row.
    pub id: AuditId,
    /// What it said.
    pub digest: RowDigest,
}

impl SealedRow {
    /// How many bytes it is stored as: its time in microseconds (big-endian), its id, its digest.
    pub const BYTES: usize = 8 + 16 + 32;

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.at.as_micros().to_be_bytes());
        bytes[8..24].copy_from_slice(self.id.as_uuid().as_bytes());
        bytes[24..].copy_from_slice(&self.digest.0);
        bytes
    }

    /// The row of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (mut at, mut id, mut digest) = ([0; 8], [0; 16], [0; 32]);
        at.copy_from_slice(&bytes[..8]);
        id.copy_from_slice(&bytes[8..24]);
        digest.copy_from_slice(&bytes[24..]);
        Self {
            at: Timestamp::from_micros(i64::from_be_bytes(at)),
            id: AuditId::from_uuid(Uuid::from_bytes(id)),
            digest: RowDigest(digest),
        }
    }

    /// Where it stands in the log.
    #[must_use]
    pub const fn place(&self) -> Cursor {
        Cursor::new(self.at, self.id.as_uuid())
    }
}

/// The digest of everything that a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowDigest(pub [u8; 32]);

impl RowDigest {
    /// The digest of a row.
    #[must_use]
    pub fn of(row: &AuditRow) -> Self {
        let mut bytes = Fields(Sha256::new_with_prefix(b"pgw audit row 1"));
        let (kind, actor) = row.actor.parts();
        bytes.put(row.id.as_uuid().as_bytes());
        bytes.put(row.scope.merchant.as_str());
        bytes.put(row.scope.mode.as_str());
        bytes.put(row.at.as_micros().to_be_bytes());
        bytes.put(kind);
        bytes.maybe(actor);
        bytes.put(row.action.as_str());
        bytes.put(row.outcome.as_str());
        bytes.maybe(row.origin.map(|origin| origin.to_string()));
        bytes.put(row.object.to_string());
        bytes.maybe(row.request_id.as_deref());
        for change in &row.changes {
            bytes.put(change.field().as_str());
            bytes.maybe(change.before());
            bytes.maybe(change.after());
        }
        Self(bytes.0.finalize().into())
    }
}

/// What a chain ends with. Kept elsewhere, it shows later that nothing was cut off the chain's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealHead {
    /// The last seal's number.
    pub number: u64,
    /// Its code.
    pub mac: [u8; 32],
    /// The place that it goes through.
    pub through: Cursor,
}

/// A merchant's log at its end: what is sealed, and what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditTail {
    /// Whose.
    pub merchant: MerchantId,
    /// The chain's end; `None`: nothing is sealed.
    pub head: Option<SealHead>,
    /// The place of the newest row.
    pub newest: Cursor,
}

/// A row as it is found for sealing and verifying, whether or not it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRow {
    /// Where it stands.
    pub place: Cursor,
    /// The row. `None`: it was changed by hand, or written by a later version, and cannot be read.
    pub row: Option<AuditRow>,
}

impl LoggedRow {
    /// The row as a seal holds it; `None` when it cannot be read.
    #[must_use]
    pub fn sealed(&self) -> Option<SealedRow> {
        let row = self.row.as_ref()?;
        Some(SealedRow { at: row.at, id: row.id, digest: RowDigest::of(row) })
    }
}

/// The key of the chains' codes.
#[derive(Clone)]
pub struct SealKey([u8; 32]);

impl SealKey {
    /// The key that belongs to a pepper.
    #[must_use]
    pub fn of(pepper: &Pepper) -> Self {
        // No API key is this text, so what one use of the pepper shows tells nothing about the other.
        Self(pepper.mac(&[b"pgw audit seals 1"]))
    }

    fn code(&self, seal: &AuditSeal) -> [u8; 32] {
        let mac = <Hmac<Sha256>>::new_from_slice(&self.0);
        let mut bytes = Fields(mac.expect("HMAC takes keys of any length (RFC 2104)"));
        bytes.0.update(b"pgw audit seal 1");
        bytes.put(seal.merchant.as_str());
        bytes.put(seal.number.to_be_bytes());
        bytes.put(seal.previous);
        bytes.put(seal.through.at.as_micros().to_be_bytes());
        bytes.put(seal.through.id.as_bytes());
        bytes.put(seal.sealed_at.as_micros().to_be_bytes());
        for row in &seal.rows {
            bytes.put(row.to_bytes());
        }
        bytes.0.finalize().into_bytes().into()
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// The place just before another: what is after it begins with the other.
pub(crate) fn before(place: Cursor) -> Cursor {
    match place.id.as_u128().checked_sub(1) {
        Some(id) => Cursor::new(place.at, Uuid::from_u128(id)),
        None => Cursor::new(place.at.minus(Duration::from_micros(1)), Uuid::max()),
    }
}

/// How long after its time a row may still come to be committed and sealed: a day and some, more than any transaction lasts. One that
/// comes later is told apart no more from one that somebody added.
pub(crate) const LATE_FOR: Duration = Duration::from_secs(26 * 60 * 60);

/// Takes fields, each with its length before it, so that no two lists of fields read the same.
struct Fields<T>(T);

impl<T: Takes> Fields<T> {
    fn put(&mut self, field: impl AsRef<[u8]>) {
        let field = field.as_ref();
        self.0.take(&(field.len() as u64).to_be_bytes());
        self.0.take(field);
    }

    fn maybe(&mut self, field: Option<impl AsRef<[u8]>>) {
        match field {
            Some(field) => self.put(field),
            None => self.0.take(&u64::MAX.to_be_bytes()),
        }
    }
}

/// A digest or code that is being made.
trait Takes {
    fn take(&mut self, bytes: &[u8]);
}

impl Takes for Sha256 {
    fn take(&mut self, bytes: &[u8]) {
        sha2::Digest::update(self, bytes);
    }
}

impl Takes for Hmac<Sha256> {
    fn take(&mut self, bytes: &[u8]) {
        hmac::Mac::update(self, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Actor, AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome};
    use crate::env::Env;
    use crate::id::PaymentId;
    use crate::scope::{Mode, Scope};

    fn row() -> AuditRow {
        AuditRow {
            id: AuditId::from_uuid(Uuid::from_u128(1)),
            scope: Scope::default(),
            at: Timestamp::from_micros(1_768_564_800_000_001),
            actor: Actor::Host,
            action: AuditAction::PaymentCapture,
            outcome: AuditOutcome::Success,
            origin: None,
            object: AuditObject::Payment(PaymentId::from_uuid(Uuid::from_u128(2))),
            request_id: None,
            changes: Box::new([AuditChange::new(AuditField::Status, Some("a"), None)]),
        }
    }

    #[test]
    fn a_digest_depends_on_every_field() {
        let changes: Vec<fn(&mut AuditRow)> = vec![
            |row| row.id = AuditId::from_uuid(Uuid::from_u128(3)),
            |row| row.scope.merchant = "acme".parse().expect("a valid id"),
            |row| row.scope.mode = Mode::Live,
            |row| row.at = Timestamp::from_micros(1),
            |row| row.actor = Actor::Worker,
            |row| row.actor = Actor::Other("host".into()),
            |row| row.action = AuditAction::PaymentCancel,
            |row| row.outcome = AuditOutcome::Failure,
            |row| row.origin = Some([192, 0, 2, 1].into()),
            |row| row.object = AuditObject::Payment(PaymentId::from_uuid(Uuid::from_u128(9))),
            |row| row.request_id = Some("".into()),
            |row| row.changes = Box::default(),
            |row| row.changes[0] = AuditChange::new(AuditField::Status, None, Some("a")),
            |row| row.changes[0] = AuditChange::new(AuditField::Url, Some("a"), None),
        ];
        let mut digests = vec![RowDigest::of(&row())];
        for change in changes {
            let mut other = row();
            change(&mut other);
            let digest = RowDigest::of(&other);
            assert!(!digests.contains(&digest), "{other:?}");
            digests.push(digest);
        }
    }

    #[test]
    fn a_digest_never_changes_its_bytes() {
        // Seals of years ago must verify: a change of this number is a new version of the bytes.
        let hex: String = RowDigest::of(&row()).0.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "6898e2f1e45ad008d870456c78d3cb52ca278284884600ce97af2fdaff28d900");
    }

    #[test]
    fn a_seal_depends_on_all_of_it_and_on_the_pepper() {
        let env = Env::system();
        let key = SealKey::of(&Pepper::mint(&env));
        let sealed =
            |row: AuditRow| SealedRow { at: row.at, id: row.id, digest: RowDigest::of(&row) };
        let place = Cursor::new(row().at, row().id.as_uuid());
        let merchant = MerchantId::default();
        let first = AuditSeal::new(&key, merchant, None, place, row().at, vec![sealed(row())]);
        assert!(first.number == 1 && first.is_genuine(&key));
        assert!(!first.is_genuine(&SealKey::of(&Pepper::mint(&env))));
        let changes: Vec<fn(&mut AuditSeal)> = vec![
            |seal| seal.merchant = "acme".parse().expect("a valid id"),
            |seal| seal.number = 2,
            |seal| seal.previous[31] = 1,
            |seal| seal.through.at = Timestamp::MAX,
            |seal| seal.through.id = Uuid::nil(),
            |seal| seal.sealed_at = Timestamp::MAX,
            |seal| seal.rows.clear(),
            |seal| seal.rows[0].digest.0[0] ^= 1,
            |seal| seal.rows[0].at = Timestamp::MAX,
            |seal| seal.mac[0] ^= 1,
        ];
        for change in changes {
            let mut other = first.clone();
            change(&mut other);
            assert!(!other.is_genuine(&key), "{other:?}");
        }
        let bytes = first.rows[0].to_bytes();
        assert_eq!(SealedRow::from_bytes(bytes), first.rows[0]);
    }
}
