//! Many commits as one statement: guards are checked and locked, keys claimed, rows written, and each commit has an outcome of its own.
//!
//! In this order, each step feeding the next: lock what the guards are about and compare versions; claim the keys of the commits that
//! passed; insert the payments that are new; write everything else of the commits that got this far. Everything is one statement with
//! an array for each column that is not the same in all rows, so a hundred payments are planned, parsed and sent as one. Where each commit creates
//! a payment and nothing else, the statement is [`crate::creation`]'s.

use pgw_core::changes::{Changes, Guard, Write};
use pgw_core::id::{DeliveryId, PaymentId};
use pgw_core::storage::StorageError;
use uuid::Uuid;

use crate::creation::{self, Created, CreationRow};
use crate::handoff::Reserved;
use crate::outcome::{CREATION, NO_SUCH_KEY};
use crate::rows::{
    AnswerRow, AttemptRow, AuditLine, ClaimRow, DeliveryGuard, DeliveryRow, EventRow, Form,
    OperationRow, PaymentGuard, PaymentRow, Row, is_live,
};
use crate::sql::{Bound, Template};
use crate::steps::place;
use crate::table::{
    Existing, Inputs, NOW, Target, insert_into, is_the_row, on_existing, single, unnest, update,
    values,
};
use crate::value::version;

/// What a statement does about rows and keys that another transaction holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It leaves their commits out: nobody waits because of them.
    Never,
    /// It waits, as long as the lock timeout lets it.
    ForLocks,
}

/// Rows of one table with the numbers of the commits they are of.
struct Many<R> {
    items: Vec<i32>,
    rows: Vec<R>,
}

impl<R> Default for Many<R> {
    fn default() -> Self {
        Self { items: Vec::new(), rows: Vec::new() }
    }
}

impl<R: Row> Many<R> {
    fn push(&mut self, item: i32, row: R) {
        self.items.push(item);
        self.rows.push(row);
    }

    fn drop_item(&mut self, item: i32) {
        while self.items.last() == Some(&item) {
            self.items.pop();
            self.rows.pop();
        }
    }

    /// Its bit of a shape.
    fn bit(&self, part: Part) -> u32 {
        if self.rows.is_empty() { 0 } else { part.bit() }
    }

    /// Whether all of them are of this form.
    fn have(&self, form: Form) -> bool {
        self.rows.iter().all(|row| row.has(form))
    }

    fn bind(self, is_one: bool, form: Form, to: &mut Bound) {
        match (self.items.first(), self.rows.first()) {
            (Some(item), Some(row)) if is_one => {
                to.add(*item);
                row.bind(form, to);
            }
            (Some(_), Some(_)) => {
                to.add(self.items);
                R::bind_all(&self.rows, form, to);
            }
            _ => {}
        }
    }
}

/// The parts a statement may have, in the order their arguments are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    PaymentGuards,
    DeliveryGuards,
    Claims,
    Created,
    Begun,
    Replaced,
    Operations,
    Events,
    Answers,
    Deliveries,
    Attempts,
    Audit,
}

impl Part {
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    const fn is_in(self, shape: u32) -> bool {
        shape & self.bit() != 0
    }

    /// What is known of its rows in a statement of this shape.
    const fn form(self, shape: u32) -> Form {
        match self {
            Self::Created | Self::Begun if shape & ARE_NEW != 0 => Form::New,
            Self::Replaced | Self::Operations | Self::Deliveries | Self::Attempts | Self::Audit
                if shape & ARE_USUAL != 0 =>
            {
                Form::Usual
            }
            _ => Form::Any,
        }
    }
}

/// A commit of a group.
#[derive(Clone, Copy)]
pub(crate) struct One<'a> {
    pub(crate) changes: &'a Changes,
    /// The claim of the operation that it begins.
    pub(crate) held: Option<&'a Reserved>,
}

/// Commits put together. At most one of them is about any one payment, delivery or key.
#[derive(Default)]
pub(crate) struct Group<'a> {
    items: Vec<i32>,
    claims_one: Vec<bool>,
    creates_one: Vec<bool>,
    payment_guards: Many<PaymentGuard<'a>>,
    delivery_guards: Many<DeliveryGuard<'a>>,
    claims: Many<ClaimRow<'a>>,
    created: Many<PaymentRow<'a>>,
    begun: Many<OperationRow<'a>>,
    replaced: Many<PaymentRow<'a>>,
    operations: Many<OperationRow<'a>>,
    events: Many<EventRow<'a>>,
    answers: Many<AnswerRow<'a>>,
    deliveries: Many<DeliveryRow<'a>>,
    attempts: Many<AttemptRow<'a>>,
    audit: Many<AuditLine<'a>>,
}

/// Whether a commit is of the kind that a group takes: the life of a payment and of its deliveries. Everything else, and what refers to
/// rows that its guards do not vouch for, is done step by step.
pub(crate) fn fits(changes: &Changes) -> bool {
    let mut payments: Vec<PaymentId> = Vec::new();
    let mut deliveries: Vec<DeliveryId> = Vec::new();
    for guard in &changes.guards {
        match guard {
            Guard::Payment { id, version } => {
                let creates =
                    || changes.writes.iter().any(|w| matches!(w, Write::Payment(p) if p.id == *id));
                if payments.contains(id) || (*version == 0 && !creates()) {
                    return false;
                }
                payments.push(*id);
            }
            Guard::Delivery { id, .. } if !deliveries.contains(id) => deliveries.push(*id),
            _ => return false,
        }
    }
    // One payment a commit: a group tells commits apart by it.
    payments.len() <= 1 && writes_fit(changes, &payments, &deliveries)
}

fn writes_fit(changes: &Changes, payments: &[PaymentId], deliveries: &[DeliveryId]) -> bool {
    let claimed = changes.claim.as_ref().map(|claim| &claim.key);
    let mut seen: Vec<(u8, Uuid, Uuid)> = Vec::with_capacity(changes.writes.len());
    for write in &changes.writes {
        let name = match write {
            Write::Payment(payment) if payments.contains(&payment.id) => {
                (0, payment.id.as_uuid(), Uuid::nil())
            }
            Write::Operation { operation, .. } if payments.contains(&operation.payment) => {
                (1, operation.id.as_uuid(), Uuid::nil())
            }
            Write::Event(event) if event.payment.is_none_or(|id| payments.contains(&id)) => {
                (2, event.id.as_uuid(), Uuid::nil())
            }
            Write::Delivery { delivery, .. } if deliveries.contains(&delivery.id) => {
                (3, delivery.id.event().as_uuid(), delivery.id.endpoint().as_uuid())
            }
            Write::Attempt(attempt) if deliveries.contains(&attempt.delivery) => {
                (4, attempt.delivery.event().as_uuid(), Uuid::from_u128(attempt.number.into()))
            }
            Write::Answer { key, .. } => {
                let others = changes.writes.iter().filter(
                    |other| matches!(other, Write::Answer { key: other, .. } if other == key),
                );
                if claimed == Some(key) || others.count() > 1 {
                    return false;
                }
                continue;
            }
            Write::Audit(row) => (5, row.id.as_uuid(), Uuid::nil()),
            _ => return false,
        };
        if seen.contains(&name) {
            return false;
        }
        seen.push(name);
    }
    true
}

impl<'a> Group<'a> {
    /// Adds a commit that [`fits`], as the one with this number; numbers go up.
    ///
    /// # Errors
    /// When a value cannot be stored; then nothing of the commit is in the group.
    pub(crate) fn add(&mut self, item: i32, one: One<'a>) -> Result<(), StorageError> {
        let added = self.try_add(item, one);
        if added.is_err() {
            self.payment_guards.drop_item(item);
            self.delivery_guards.drop_item(item);
            self.claims.drop_item(item);
            self.created.drop_item(item);
            self.begun.drop_item(item);
            self.replaced.drop_item(item);
            self.operations.drop_item(item);
            self.events.drop_item(item);
            self.answers.drop_item(item);
            self.deliveries.drop_item(item);
            self.attempts.drop_item(item);
            self.audit.drop_item(item);
        }
        added
    }

    fn try_add(&mut self, item: i32, one: One<'a>) -> Result<(), StorageError> {
        let One { changes, held } = one;
        let scope = &changes.scope;
        let (merchant, live) = (scope.merchant.as_str(), is_live(scope.mode));
        let mut creates = false;
        for (at, guard) in changes.guards.iter().enumerate() {
            // In range: a commit has at most `Changes::PARTS_MAX` guards.
            let at = i32::try_from(at).unwrap_or(i32::MAX);
            match guard {
                Guard::Payment { version: 0, .. } => creates = true,
                Guard::Payment { id, version: expected } => {
                    let (id, version) = (id.as_uuid(), version(*expected));
                    self.payment_guards
                        .push(item, PaymentGuard { merchant, live, at, id, version });
                }
                Guard::Delivery { id, version: expected } => {
                    let (event, endpoint) = (id.event().as_uuid(), id.endpoint().as_uuid());
                    let version = version(*expected);
                    let guard = DeliveryGuard { merchant, live, at, event, endpoint, version };
                    self.delivery_guards.push(item, guard);
                }
                _ => return Err(StorageError::Unsupported("this guard in a group")),
            }
        }
        if let Some(claim) = &changes.claim {
            self.claims.push(item, ClaimRow::new(changes, claim)?);
        }
        for write in &changes.writes {
            match write {
                Write::Payment(payment) => {
                    let to = if creates { &mut self.created } else { &mut self.replaced };
                    to.push(item, PaymentRow::new(payment)?);
                }
                Write::Operation { operation, due_in } => {
                    let place = place(changes, write);
                    let row = OperationRow::new(scope, operation, place, *due_in, held)?;
                    // The operations of a new payment are new, and need not be looked for.
                    let to = if creates { &mut self.begun } else { &mut self.operations };
                    to.push(item, row);
                }
                Write::Event(event) => self.events.push(item, EventRow::new(event)?),
                Write::Answer { key, answer } => {
                    self.answers.push(item, AnswerRow::new(scope, key, answer)?);
                }
                Write::Delivery { delivery, due_in } => {
                    self.deliveries.push(item, DeliveryRow::new(delivery, *due_in)?);
                }
                Write::Attempt(attempt) => {
                    self.attempts.push(item, AttemptRow::new(scope, attempt)?);
                }
                Write::Audit(row) => self.audit.push(item, AuditLine::new(row)?),
                _ => return Err(StorageError::Unsupported("this write in a group")),
            }
        }
        self.items.push(item);
        self.claims_one.push(changes.claim.is_some());
        self.creates_one.push(creates);
        Ok(())
    }

    /// Whether nothing was added.
    pub(crate) const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Which parts the statement has, and whether it waits: what names its text.
    fn shape(&self, wait: Wait) -> u32 {
        let waits = if wait == Wait::ForLocks { WAITS } else { 0 };
        let one = if self.is_one() { ONE } else { 0 };
        SHAPES
            | one
            | waits
            | self.forms()
            | self.payment_guards.bit(Part::PaymentGuards)
            | self.delivery_guards.bit(Part::DeliveryGuards)
            | self.claims.bit(Part::Claims)
            | self.created.bit(Part::Created)
            | self.begun.bit(Part::Begun)
            | self.replaced.bit(Part::Replaced)
            | self.operations.bit(Part::Operations)
            | self.events.bit(Part::Events)
            | self.answers.bit(Part::Answers)
            | self.deliveries.bit(Part::Deliveries)
            | self.attempts.bit(Part::Attempts)
            | self.audit.bit(Part::Audit)
    }

    /// What is known of its rows: two bits, not two a part, as each mix is a statement of its own and planned for itself.
    fn forms(&self) -> u32 {
        let are_new = self.created.have(Form::New) && self.begun.have(Form::New);
        let are_usual = self.replaced.have(Form::Usual)
            && self.operations.have(Form::Usual)
            && self.deliveries.have(Form::Usual)
            && self.attempts.have(Form::Usual)
            && self.audit.have(Form::Usual);
        (if are_new { ARE_NEW } else { 0 }) | (if are_usual { ARE_USUAL } else { 0 })
    }

    /// Whether it is one commit, of no more than one row a part.
    fn is_one(&self) -> bool {
        let counts = [
            self.items.len(),
            self.payment_guards.rows.len(),
            self.delivery_guards.rows.len(),
            self.begun.rows.len(),
            self.operations.rows.len(),
            self.events.rows.len(),
            self.answers.rows.len(),
            self.deliveries.rows.len(),
            self.attempts.rows.len(),
            self.audit.rows.len(),
        ];
        counts.into_iter().all(|count| count <= 1)
    }

    /// The shape of its statement, and its arguments.
    pub(crate) fn bind(self, wait: Wait, offset: i64) -> (u32, Bound) {
        if wait == Wait::Never
            && let Some(rows) = self.creations()
        {
            let one = if rows.len() == 1 { ONE } else { 0 };
            return (SHAPES | CREATIONS | one, creation::bind(&self.items, &rows, offset));
        }
        let shape = self.shape(wait);
        (shape, self.bind_parts(shape, offset))
    }

    /// Its rows, if each commit creates a payment and does nothing else.
    fn creations(&self) -> Option<Vec<CreationRow<'_>>> {
        let items = &self.items;
        // One row a table of each commit, and none of another.
        let are_creations = self.payment_guards.items.is_empty()
            && self.delivery_guards.items.is_empty()
            && self.replaced.items.is_empty()
            && self.operations.items.is_empty()
            && self.answers.items.is_empty()
            && self.deliveries.items.is_empty()
            && self.attempts.items.is_empty()
            && self.created.items == *items
            && self.begun.items == *items
            && self.events.items == *items
            && self.claims.items == *items
            && self.audit.items == *items;
        let row = |n: usize| {
            let (payment, operation) = (self.created.rows.get(n)?, self.begun.rows.get(n)?);
            let (event, claim) = (self.events.rows.get(n)?, self.claims.rows.get(n)?);
            let audit = self.audit.rows.get(n)?;
            Created { payment, operation, event, claim, audit }.row()
        };
        if are_creations { (0..items.len()).map(row).collect() } else { None }
    }

    /// The arguments of the statement of its shape, in the order the parts are listed.
    fn bind_parts(self, shape: u32, offset: i64) -> Bound {
        let mut bound = Bound::new().and(offset);
        let is_one = shape & ONE != 0;
        match (self.items.first(), self.claims_one.first(), self.creates_one.first()) {
            (Some(item), Some(claims), Some(creates)) if is_one => {
                bound = bound.and(*item).and(*claims).and(*creates);
            }
            _ => {
                bound.add(self.items);
                bound.add(self.claims_one);
                bound.add(self.creates_one);
            }
        }
        let form = |part: Part| part.form(shape);
        self.payment_guards.bind(is_one, form(Part::PaymentGuards), &mut bound);
        self.delivery_guards.bind(is_one, form(Part::DeliveryGuards), &mut bound);
        self.claims.bind(is_one, form(Part::Claims), &mut bound);
        self.created.bind(is_one, form(Part::Created), &mut bound);
        self.begun.bind(is_one, form(Part::Begun), &mut bound);
        self.replaced.bind(is_one, form(Part::Replaced), &mut bound);
        self.operations.bind(is_one, form(Part::Operations), &mut bound);
        self.events.bind(is_one, form(Part::Events), &mut bound);
        self.answers.bind(is_one, form(Part::Answers), &mut bound);
        self.deliveries.bind(is_one, form(Part::Deliveries), &mut bound);
        self.attempts.bind(is_one, form(Part::Attempts), &mut bound);
        self.audit.bind(is_one, form(Part::Audit), &mut bound);
        bound
    }
}

/// The statement of a shape.
pub(crate) fn compose(shape: u32) -> Template {
    if shape & CREATIONS != 0 {
        return creation::compose(shape & ONE != 0);
    }
    let mut text = Text { sql: Template::default(), shape, next: 5 };
    let items = if text.is_one() {
        "(values ($2::int, $3::boolean, $4::boolean))"
    } else {
        "(select unnest($2::int[]), unnest($3::boolean[]), unnest($4::boolean[]))"
    };
    text.sql.push("with items as (select * from ").push(items);
    text.sql.push(" as t(item, claims, creates))");
    text.guards();
    text.claims();
    text.creations();
    text.writes();
    text.answer();
    text.sql
}

struct Text {
    sql: Template,
    shape: u32,
    /// The number of the next argument.
    next: usize,
}

impl Text {
    const fn has(&self, part: Part) -> bool {
        part.is_in(self.shape)
    }

    const fn has_failures(&self) -> bool {
        self.has(Part::PaymentGuards)
            || self.has(Part::DeliveryGuards)
            || self.has(Part::Answers)
            || self.looks_for_creations()
    }

    /// Whether new payments are looked for before they are inserted. A commit that is done alone tells a conflict that way; and inside a host's
    /// transaction, an insert that fails would be too late.
    const fn looks_for_creations(&self) -> bool {
        self.has(Part::Created) && self.waits()
    }

    const fn waits(&self) -> bool {
        self.shape & WAITS != 0
    }

    const fn is_one(&self) -> bool {
        self.shape & ONE != 0
    }

    /// The rows of the next arguments as a relation named `i`.
    fn inputs<R: Row>(&mut self, part: Part) {
        self.inputs_at::<R>(part, self.next);
        self.next += self.arguments_of::<R>(part);
    }

    fn inputs_at<R: Row>(&mut self, part: Part, first: usize) {
        let form = part.form(self.shape);
        if self.is_one() {
            single::<R>(&mut self.sql, form, first);
        } else {
            unnest::<R>(&mut self.sql, form, first);
        }
    }

    /// The rows of the next arguments under a name, read once; a single row is as good as constants and is put in where it is used.
    fn relation<R: Row>(&mut self, part: Part, name: &'static str) {
        self.named(name);
        self.inputs::<R>(part);
        self.sql.push(")");
    }

    fn named(&mut self, name: &'static str) {
        let keep = if self.is_one() {
            " as not materialized (select * from "
        } else {
            " as materialized (select * from "
        };
        self.sql.push(", ").push(name).push(keep);
    }

    fn guards(&mut self) {
        // Rows are locked in the order of their keys, so that two statements never wait for each other; or not at all, when another
        // holds them. Each is looked up by its key: as a plain join, where the plan is from when the table was small, the whole table is
        // read.
        let lock = if self.waits() { " for update) t)" } else { " for update skip locked) t)" };
        if self.has(Part::PaymentGuards) {
            self.relation::<PaymentGuard<'_>>(Part::PaymentGuards, "payment_guards");
            self.sql.push(
                ", guarded_payments as materialized (select i.item, i.at, t.version from \
                 (select * from payment_guards order by merchant, live, id) i cross join lateral \
                 (select p.version from {schema}.payments p where p.merchant = i.merchant and p.live = i.live and p.id = i.id",
            );
            self.sql.push(lock);
        }
        if self.has(Part::DeliveryGuards) {
            self.relation::<DeliveryGuard<'_>>(Part::DeliveryGuards, "delivery_guards");
            self.sql.push(
                ", guarded_deliveries as materialized (select i.item, i.at, t.version from \
                 (select * from delivery_guards order by merchant, live, event, endpoint) i cross join lateral \
                 (select d.version from {schema}.deliveries d where d.merchant = i.merchant and d.live = i.live \
                 and d.event = i.event and d.endpoint = i.endpoint",
            );
            self.sql.push(lock);
        }
    }

    /// Which commits fail before anything is written, and at which guard first.
    fn failures(&mut self) {
        if !self.has_failures() {
            return;
        }
        self.sql
            .push(", failed as materialized (select distinct on (item) item, at, is_absent from (");
        let mut union = "";
        if self.has(Part::PaymentGuards) {
            self.sql.push(
                "select i.item, i.at, f.item is null as is_absent from payment_guards i left join guarded_payments f \
                 on f.item = i.item and f.at = i.at where f.version is distinct from i.version",
            );
            union = " union all ";
        }
        if self.has(Part::DeliveryGuards) {
            self.sql.push(union).push(
                "select i.item, i.at, f.item is null from delivery_guards i left join guarded_deliveries f \
                 on f.item = i.item and f.at = i.at where f.version is distinct from i.version",
            );
            union = " union all ";
        }
        if self.looks_for_creations() {
            self.sql.push(union).push("select i.item, ").push_number(CREATION).push(
                ", false from creations i join {schema}.payments t on t.merchant = i.merchant and t.live = i.live and t.id = i.id",
            );
            union = " union all ";
        }
        if self.has(Part::Answers) {
            self.sql.push(union).push("select i.item, ").push_number(NO_SUCH_KEY).push(
                ", false from answers i left join {schema}.idempotency_keys k \
                 on k.merchant = i.merchant and k.live = i.live and k.key = i.key where k.key is null",
            );
        }
        self.sql.push(") x(item, at, is_absent) order by item, at)");
    }

    fn claims(&mut self) {
        if self.has(Part::Claims) {
            self.relation::<ClaimRow<'_>>(Part::Claims, "claims");
        }
        if self.looks_for_creations() {
            self.relation::<PaymentRow<'_>>(Part::Created, "creations");
        }
        // The arguments of later parts come later; answers are needed here, so their place is counted now.
        if self.has(Part::Answers) {
            let mut first = self.next;
            if !self.looks_for_creations() {
                first += self.arguments_of::<PaymentRow<'_>>(Part::Created);
            }
            first += self.arguments_of::<OperationRow<'_>>(Part::Begun);
            first += self.arguments_of::<PaymentRow<'_>>(Part::Replaced);
            first += self.arguments_of::<OperationRow<'_>>(Part::Operations);
            first += self.arguments_of::<EventRow<'_>>(Part::Events);
            self.named("answers");
            self.inputs_at::<AnswerRow<'_>>(Part::Answers, first);
            self.sql.push(")");
        }
        self.failures();
        if self.has(Part::Claims) {
            self.sql.push(", claimed as (");
            insert_into::<ClaimRow<'_>>(&mut self.sql);
            self.sql.push("select ");
            values::<ClaimRow<'_>>(&mut self.sql, Inputs::Relation);
            self.sql.push(" from claims i");
            if self.has_failures() {
                self.sql.push(" left join failed f on f.item = i.item");
            }
            // Whoever claims a key holds this lock until the end of its transaction, so a key that is being claimed is known
            // without waiting for it.
            if self.waits() {
                self.sql.push(" where pg_advisory_xact_lock(").push(KEY_NUMBER);
                self.sql.push(")::text is not null");
            } else {
                self.sql.push(" where pg_try_advisory_xact_lock(").push(KEY_NUMBER).push(")");
            }
            if self.has_failures() {
                self.sql.push(" and f.item is null");
            }
            if self.is_one() && !self.has_failures() {
                // There is nothing to look up again: it goes on if it claimed its key.
                self.sql.push(
                    " on conflict do nothing returning 1), going as not materialized (select $2::int as item from claimed)",
                );
                return;
            }
            // In the order of the keys: two statements with the same keys must not wait for each other.
            self.sql.push(
                " order by i.merchant, i.live, i.key on conflict do nothing returning merchant, live, key)\
                 , own as materialized (select i.item from claims i join claimed c \
                 on c.merchant = i.merchant and c.live = i.live and c.key = i.key)",
            );
        }
        // Of one commit it is as good as a constant.
        let keep = if self.is_one() && !self.has_failures() { "not " } else { "" };
        self.sql
            .push(", going as ")
            .push(keep)
            .push("materialized (select s.item, s.claims, s.creates from items s");
        if self.has_failures() {
            self.sql.push(" left join failed f on f.item = s.item");
        }
        self.sql.push(" where true");
        if self.has_failures() {
            self.sql.push(" and f.item is null");
        }
        if self.has(Part::Claims) {
            // Of a relation whose size nobody can guess a hash is made; a join would go through it again for each commit.
            self.sql.push(" and (not s.claims or s.item in (select item from own))");
        }
        self.sql.push(")");
    }

    fn arguments_of<R: Row>(&self, part: Part) -> usize {
        if self.has(part) { 1 + R::told(part.form(self.shape)).count() } else { 0 }
    }

    fn creations(&mut self) {
        if !self.has(Part::Created) {
            self.sql.push(", won as not materialized (select item from going)");
            return;
        }
        self.sql.push(", created as (");
        insert_into::<PaymentRow<'_>>(&mut self.sql);
        self.sql.push("select ");
        values::<PaymentRow<'_>>(&mut self.sql, Inputs::Relation);
        self.sql.push(" from ");
        if !self.looks_for_creations() {
            // Ids are minted, so they are not there. Should one be, the insert fails, and each commit is done alone.
            self.inputs::<PaymentRow<'_>>(Part::Created);
            self.only("going");
            self.sql.push("), won as not materialized (select item from going)");
            return;
        }
        self.sql.push(
            "creations i join going on going.item = i.item on conflict do nothing returning merchant, live, id)\
             , news as materialized (select i.item from creations i join created c \
             on c.merchant = i.merchant and c.live = i.live and c.id = i.id)\
             , won as materialized (select g.item from going g \
             where not g.creates or g.item in (select item from news))",
        );
    }

    /// Only the rows of these commits; of one commit alone all are its own.
    fn only(&mut self, commits: &'static str) {
        if self.is_one() {
            self.sql.push(" cross join ").push(commits);
        } else {
            self.sql.push(" join ").push(commits).push(" on ").push(commits).push(".item = i.item");
        }
    }

    fn writes(&mut self) {
        self.insert::<OperationRow<'_>>(Part::Begun, "begun", Existing::Refused);
        self.insert::<PaymentRow<'_>>(Part::Replaced, "replaced", Existing::Replaced);
        self.insert::<OperationRow<'_>>(Part::Operations, "operated", Existing::Replaced);
        if self.has(Part::Events) {
            self.relation::<EventRow<'_>>(Part::Events, "events");
            self.sql.push(", appended as (");
            insert_into::<EventRow<'_>>(&mut self.sql);
            self.sql.push("select ");
            values::<EventRow<'_>>(&mut self.sql, Inputs::Relation);
            self.sql.push(" from events i");
            self.only("won");
            self.sql.push(")");
            self.sql.push(", made as (").push(MADE_INTO).push(NOW).push(" from events i");
            self.only("won");
            self.sql.push(MADE_FROM).push(")");
        }
        if self.has(Part::Answers) {
            // Bound where they stand in the order of the parts.
            self.next += self.arguments_of::<AnswerRow<'_>>(Part::Answers);
            self.sql.push(", answered as (");
            update::<AnswerRow<'_>>(&mut self.sql, Inputs::Relation);
            self.sql.push(" from answers i");
            self.only("won");
            self.sql.push(" where ");
            is_the_row::<AnswerRow<'_>>(&mut self.sql, Inputs::Relation);
            self.sql.push(")");
        }
        if self.has(Part::Deliveries) {
            self.sql.push(", delivered as (");
            update::<DeliveryRow<'_>>(&mut self.sql, Inputs::Relation);
            self.sql.push(" from ");
            self.inputs::<DeliveryRow<'_>>(Part::Deliveries);
            self.only("won");
            self.sql.push(" where ");
            is_the_row::<DeliveryRow<'_>>(&mut self.sql, Inputs::Relation);
            self.sql.push(")");
        }
        self.insert::<AttemptRow<'_>>(Part::Attempts, "attempted", Existing::Refused);
        self.insert::<AuditLine<'_>>(Part::Audit, "audited", Existing::Refused);
    }

    fn insert<R: Target>(&mut self, part: Part, name: &'static str, existing: Existing) {
        if !self.has(part) {
            return;
        }
        self.sql.push(", ").push(name).push(" as (");
        insert_into::<R>(&mut self.sql);
        self.sql.push("select ");
        values::<R>(&mut self.sql, Inputs::Relation);
        self.sql.push(" from ");
        self.inputs::<R>(part);
        self.only("won");
        on_existing::<R>(&mut self.sql, existing);
        self.sql.push(")");
    }

    fn answer(&mut self) {
        self.sql.push(APPLIED);
        if self.has_failures() {
            self.sql
                .push(" union all select array[item], 1, at, is_absent, null, null from failed");
        }
        if self.has(Part::Events) {
            self.sql.push(
                " union all select array[i.item], 2, 0, false, m.event, m.endpoint from made m join events i on i.id = m.event",
            );
        }
        if self.has(Part::Claims) && self.looks_for_creations() {
            // A key was claimed for a payment whose id was taken between the check and the insert: ids are minted, so this is somebody's
            // mistake, and dividing by zero undoes all of it.
            self.sql.push(
                " union all select array[-1], 3, (select 1 / case when count(*) = 0 then 1 else 0 end from going g \
                 where g.claims and g.item not in (select item from won))::int, false, null, null",
            );
        }
    }
}

/// The number of the advisory lock of a key.
pub(crate) const KEY_NUMBER: &str =
    "hashtextextended(i.key || ' ' || i.live::text || ' ' || i.merchant, 20261101)";
/// Which commits are applied, in one row: see [`crate::outcome::outcomes`].
pub(crate) const APPLIED: &str = " select array_agg(item), 0, 0, false, null::uuid, null::uuid from won where $1::bigint is not null";
/// The deliveries of new events, `i`: between the two stands when they are due, and where events are from.
pub(crate) const MADE_INTO: &str = "insert into {schema}.deliveries (merchant, live, event, endpoint, event_type, payment, state, attempts, \
     attempts_total, version, created_at, updated_at, due_at) \
     select i.merchant, i.live, i.id, w.id, i.event_type, i.payment, 'pending', 0, 0, 1, i.created_at, i.created_at, ";
pub(crate) const MADE_FROM: &str = " join {schema}.endpoints w on w.merchant = i.merchant and w.live = i.live and w.status = 'enabled' and (cardinality(w.filters) = 0 \
     or w.filters && array['*', i.event_type, split_part(i.event_type, '.', 1) || '.*']) returning event, endpoint";
/// Statements of this file have this bit; see `Sql::shape`.
const SHAPES: u32 = 0x1000_0000;
const WAITS: u32 = 0x0800_0000;
const ONE: u32 = 0x0010_0000;
const ARE_NEW: u32 = 0x0020_0000;
const ARE_USUAL: u32 = 0x0040_0000;
const CREATIONS: u32 = 0x0080_0000;
