//! The verbs about the audit log.

use crate::access::{AuditRow, Caller, SealHead};
use crate::error::Error;
use crate::page::{Page, PageRequest};
use crate::scope::{MerchantId, Mode, Scope};
use crate::storage::AuditFilter;

use super::verification::{AuditReport, verify};
use super::{Bound, Gateway};

impl Bound<'_> {
    /// The audit rows of the caller's merchant, of both modes, newest first. A page may be short, even empty, while there is more: see
    /// [`Storage::audit`](crate::storage::Storage::audit).
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, Error> {
        Ok(self.storage.audit(&self.scope().merchant, filter, page).await?)
    }

    /// Verifies the log of the caller's merchant: see [`Gateway::verify_audit`].
    ///
    /// # Errors
    /// [`Error::NoPepper`], [`Error::Storage`].
    pub async fn verify_audit(
        &self,
        kept: Option<SealHead>,
        progress: impl FnMut(&AuditReport) + Send,
    ) -> Result<AuditReport, Error> {
        let parts = &self.gateway.parts;
        let key = parts.seals.as_ref().ok_or(Error::NoPepper)?;
        let (merchant, now) = (&self.scope().merchant, parts.env.now());
        Ok(verify(self.storage, key, merchant, kept, now, progress).await?)
    }
}

impl Gateway {
    /// Verifies a merchant's audit log against its seals, in steps of a few thousand rows, and stops at the first thing that is wrong.
    /// `progress` hears after each step how far it is; it begins anew when a purge took what was just looked at. `kept` is the
    /// [head](AuditReport::head) of an earlier report, kept where who can write the database cannot: only against it does it show when
    /// the end of the chain was cut off.
    ///
    /// ```
    /// # async fn f(gateway: &pgw_core::gateway::Gateway) -> Result<(), pgw_core::error::Error> {
    /// let merchant = Default::default();
    /// let report = gateway.verify_audit(&merchant, None, |so_far| println!("{} rows", so_far.sealed)).await?;
    /// match &report.fault {
    ///     None => println!("{} rows are as they were written", report.sealed),
    ///     Some(fault) => println!("{fault}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoPepper`], [`Error::Storage`]. What is wrong with the log is no error: it is in the report.
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn verify_audit(
        &self,
        merchant: &MerchantId,
        kept: Option<SealHead>,
        progress: impl FnMut(&AuditReport) + Send,
    ) -> Result<AuditReport, Error> {
        let scope = Scope::new(merchant.clone(), Mode::Test);
        self.by(Caller::host(scope)).verify_audit(kept, progress).await
    }
}
