//! The export of a customer (GDPR Art. 20): everything that is held, a payment at a time, so that it is bounded however much that is.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::access::{AuditAction, AuditObject, Caller};
use crate::changes::{Changes, Write};
use crate::error::Error;
use crate::page::{Cursor, PageFrom, PageRequest};
use crate::payment::{OperationKind, Payment};
use crate::representation;
use crate::storage::PaymentFilter;
use crate::text::CustomerId;
use crate::webhook::plan::audit;

use super::Gateway;

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ExportFormat {
    /// One JSON object: payments with their operations and events, consents, erasures.
    Json,
    /// The payments as a table (RFC 4180), in UTF-8 with a header. A cell that a spreadsheet would take for a formula starts with an
    /// apostrophe.
    Csv,
}

/// An export under way: its chunks, in their order, are the file.
///
/// ```
/// # use pgw_core::{access::Caller, gateway::{ExportFormat, Gateway}, text::CustomerId};
/// # async fn f(gateway: &Gateway) -> Result<(), Box<dyn std::error::Error>> {
/// let caller = Caller::host(Default::default());
/// let mut export = gateway.export_customer(caller, CustomerId::parse("cus_42")?, ExportFormat::Json).await?;
/// while let Some(chunk) = export.next().await? {
///     print!("{}", String::from_utf8_lossy(&chunk));
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Export {
    gateway: Gateway,
    caller: Caller,
    customer: CustomerId,
    format: ExportFormat,
    stage: Stage,
    /// Payments that were read and not written yet.
    waiting: VecDeque<Payment>,
    is_first: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Payments(Option<Cursor>),
    LastPayments,
    Tail,
    Done,
}

impl Gateway {
    /// Begins the export of a customer in the caller's name and scope, which is audited. Payments that are created meanwhile are not part of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is held of such a customer, [`Error::Storage`].
    pub async fn export_customer(
        &self,
        caller: Caller,
        customer: CustomerId,
        format: ExportFormat,
    ) -> Result<Export, Error> {
        let bound = self.by(caller.clone());
        if !bound.is_held(&customer).await? {
            return Err(Error::NotFound("customer"));
        }
        let digest = bound.customer_digest(&customer);
        let changes = bound.plan(|stamp| {
            let row = audit(AuditAction::CustomerExport, AuditObject::Customer(digest), stamp);
            Changes::new(row.scope.clone()).write(Write::Audit(Box::new(row)))
        });
        // Nothing guards it, so it is not asked for again: who got no answer exports again and is audited again.
        self.storage().commit(changes).await?;
        Ok(Export {
            gateway: self.clone(),
            caller,
            customer,
            format,
            stage: Stage::Head,
            waiting: VecDeque::new(),
            is_first: true,
        })
    }
}

impl Export {
    /// How it is written.
    #[must_use]
    pub const fn format(&self) -> ExportFormat {
        self.format
    }

    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Storage`]; the same chunk can be asked for again.
    ///
    /// # Cancel safety
    /// A dropped call has taken nothing: the next one gives what it would have given.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(payment) = self.waiting.front() {
                let chunk = match self.format {
                    ExportFormat::Json => self.payment(payment).await?,
                    ExportFormat::Csv => self.line(payment).await?,
                };
                self.waiting.pop_front();
                self.is_first = false;
                return Ok(Some(chunk.into()));
            }
            match self.stage {
                Stage::Head => {
                    self.stage = Stage::Payments(None);
                    return Ok(Some(self.head().into()));
                }
                Stage::Payments(after) => self.read(after).await?,
                Stage::LastPayments => self.stage = Stage::Tail,
                Stage::Tail => {
                    let tail = match self.format {
                        ExportFormat::Json => Some(self.tail().await?.into()),
                        ExportFormat::Csv => None,
                    };
                    self.stage = Stage::Done;
                    return Ok(tail);
                }
                Stage::Done => return Ok(None),
            }
        }
    }

    async fn read(&mut self, after: Option<Cursor>) -> Result<(), Error> {
        let customer = Some(self.customer.clone());
        let filter = PaymentFilter { customer, ..PaymentFilter::default() };
        let mut page = PageRequest::default();
        if let Some(after) = after {
            page = page.with_from(PageFrom::After(after));
        }
        let found = self.gateway.by(self.caller.clone()).payments(&filter, page).await?;
        self.waiting.extend(found.data);
        self.stage = match found.next_cursor.filter(|_| found.has_more) {
            Some(next) => Stage::Payments(Some(next)),
            None => Stage::LastPayments,
        };
        Ok(())
    }

    fn head(&self) -> Vec<u8> {
        match self.format {
            ExportFormat::Json => {
                let id = serde_json::to_string(self.customer.as_str())
                    .expect("a text is written as JSON");
                format!("{{\"object\":\"customer_export\",\"customer_id\":{id},\"payments\":[")
                    .into_bytes()
            }
            ExportFormat::Csv => row(&COLUMNS.map(str::to_owned)),
        }
    }

    /// A payment with its operations, refunds and events.
    async fn payment(&self, payment: &Payment) -> Result<Vec<u8>, Error> {
        let bound = self.gateway.by(self.caller.clone());
        let state = bound.payment(payment.id).await?;
        let operations = state.iter().flat_map(|state| &state.operations);
        let (refunds, others): (Vec<_>, Vec<_>) =
            operations.partition(|operation| operation.kind == OperationKind::Refund);
        let refunds = refunds.into_iter().map(|one| representation::refund(&payment.scope, one));
        let others = others.into_iter().map(representation::operation);
        let mut events: Vec<Bytes> = Vec::new();
        loop {
            let after = events.len() as u64;
            let found = bound.payment_events(payment.id, after, EVENTS_AT_ONCE).await?;
            let count = found.len();
            events.extend(found.into_iter().map(|event| event.body));
            if count < EVENTS_AT_ONCE {
                break;
            }
        }
        let mut to = if self.is_first { Vec::new() } else { b",".to_vec() };
        to.extend_from_slice(b"{\"payment\":");
        to.extend(representation::payment(state.as_ref().map_or(payment, |it| &it.payment)));
        list(&mut to, "operations", others);
        list(&mut to, "refunds", refunds);
        list(&mut to, "events", events);
        to.push(b'}');
        Ok(to)
    }

    /// A payment's line, as it is now: since its page was read its customer may have been erased.
    async fn line(&self, payment: &Payment) -> Result<Vec<u8>, Error> {
        let state = self.gateway.by(self.caller.clone()).payment(payment.id).await?;
        Ok(row(&cells(state.as_ref().map_or(payment, |state| &state.payment))))
    }

    async fn tail(&self) -> Result<Vec<u8>, Error> {
        let bound = self.gateway.by(self.caller.clone());
        let consents = bound.consents(&self.customer).await?;
        let page = PageRequest::first(PageRequest::LIMIT_MAX);
        let erasures = bound.erasures(Some(&self.customer), page).await?;
        let mut to = b"]".to_vec();
        list(&mut to, "consents", consents.iter().map(representation::consent));
        list(&mut to, "erasures", erasures.data.iter().map(representation::erasure));
        to.push(b'}');
        Ok(to)
    }
}

/// `,"name":[…]`.
fn list(to: &mut Vec<u8>, name: &str, objects: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    to.extend_from_slice(format!(",\"{name}\":[").as_bytes());
    for (at, object) in objects.into_iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        to.extend_from_slice(object.as_ref());
    }
    to.push(b']');
}

/// A line of the table.
fn row(cells: &[String]) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::with_capacity(512));
    let cells = cells.iter().map(|cell| harmless(cell));
    writer.write_record(cells).expect("a Vec takes any write, and each writer writes one row");
    writer.into_inner().expect("a Vec takes any write")
}

/// A cell that no spreadsheet runs (OWASP, CSV injection).
fn harmless(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if is_formula { format!("'{cell}") } else { cell.to_owned() }
}

const COLUMNS: [&str; 17] = [
    "id",
    "created_at",
    "status",
    "amount",
    "currency",
    "captured_minor",
    "refunded_minor",
    "customer_id",
    "customer_email",
    "customer_name",
    "description",
    "metadata",
    "payment_method",
    "processor",
    "processor_reference",
    "failure_code",
    "failure_message",
];

fn cells(payment: &Payment) -> [String; COLUMNS.len()] {
    let customer = &payment.customer;
    let failure = payment.failure.as_ref();
    let metadata = serde_json::value::to_raw_value(&payment.metadata)
        .map_or_else(|_| String::new(), |json: Box<RawValue>| json.get().to_owned());
    [
        payment.id.to_string(),
        payment.created_at.to_string(),
        payment.status.to_string(),
        payment.amount.to_string(),
        payment.amount.currency().code().to_owned(),
        payment.captured_minor.to_string(),
        payment.refunded_minor.to_string(),
        customer.id.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()),
        customer.email.as_str().to_owned(),
        customer.name.as_str().to_owned(),
        payment.description.as_ref().map_or_else(String::new, |text| text.as_str().to_owned()),
        metadata,
        payment.payment_method.as_str().to_owned(),
        payment.processor.as_str().to_owned(),
        payment.processor_reference.as_ref().map_or_else(String::new, |it| it.as_str().to_owned()),
        failure.map_or_else(String::new, |failure| failure.code().to_owned()),
        failure.map_or_else(String::new, |failure| failure.message().to_owned()),
    ]
}

/// Events of a payment that are read at once. Sequences are dense from 1, so the next ones are after as many.
const EVENTS_AT_ONCE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_no_formula() {
        let cells = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a,b", "say \"x\"", "a\nb", "plain"];
        let line = String::from_utf8(row(&cells.map(str::to_owned))).unwrap();
        let expected = concat!(
            "'=1+1,'+1,'-1,'@x,'\tx,\"'\rx\",\"a,b\",\"say \"\"x\"\"\",\"a\nb\",plain",
            "\r\n"
        );
        assert_eq!(line, expected);
    }
}
