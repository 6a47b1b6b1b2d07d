//! Lists: keyset pages, newest first, each filter on an index of its own.

use pgw_core::access::ApiKey;
use pgw_core::id::PaymentId;
use pgw_core::page::{Cursor, Page, PageFrom, PageRequest};
use pgw_core::payment::{Operation, Payment};
use pgw_core::privacy::{CustomerDigest, ErasureProgress};
use pgw_core::scope::Scope;
use pgw_core::storage::{DeliveryFilter, PaymentFilter, StorageError};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::DeliveryStatus;
use pgw_core::webhook::{Delivery, Endpoint};

use crate::columns::{self, *};
use crate::database::Session;
use crate::redact::mark;
use crate::rows::is_live;
use crate::sql::{Bound, Template};
use crate::value::Time;

/// A list that is put together: its text, the shape that names the text, and its arguments.
struct List {
    sql: Template,
    shape: u32,
    bound: Bound,
    arguments: usize,
    bits: u32,
}

/// The columns a list is in order of.
#[derive(Debug, Clone, Copy)]
struct Order {
    at: &'static str,
    id: &'static str,
    /// The second id of rows that have two.
    tie: Option<&'static str>,
}

impl List {
    /// A list of the rows that the text selects; the text ends within `where`.
    fn new(shape: u32, sql: &'static str, bound: Bound, arguments: usize) -> Self {
        let mut template = Template::default();
        template.push("select * from (").push(sql);
        Self { sql: template, shape: SHAPES | shape << 16, bound, arguments, bits: 0 }
    }

    /// Adds a condition with one argument, when there is one. Every call counts for the shape, whether it adds or not.
    fn when<'t, T>(&mut self, condition: &'static str, argument: Option<T>) -> &mut Self
    where
        T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.bits <<= 1;
        if let Some(argument) = argument {
            self.bits |= 1;
            self.sql.push(" and ").push(condition).push(" $");
            self.argument(argument);
        }
        self
    }

    /// Adds a condition without arguments, when it is wanted.
    fn only(&mut self, condition: &'static str, is_wanted: bool) -> &mut Self {
        self.bits = self.bits << 1 | u32::from(is_wanted);
        if is_wanted {
            self.sql.push(" and ").push(condition);
        }
        self
    }

    fn argument<'t, T>(&mut self, argument: T)
    where
        T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.arguments += 1;
        self.sql.push_number(self.arguments);
        self.bound.add(argument);
    }

    fn between(&mut self, order: Order, from: Option<Timestamp>, before: Option<Timestamp>) {
        self.bits <<= 2;
        if let Some(from) = from {
            self.bits |= 1;
            self.sql.push(" and ").push(order.at).push(" >= $");
            self.argument(Time(from));
        }
        if let Some(before) = before {
            self.bits |= 2;
            self.sql.push(" and ").push(order.at).push(" < $");
            self.argument(Time(before));
        }
    }

    /// Runs it, one row more than the page has, and reads the rows.
    async fn page<T>(
        mut self,
        session: &impl Session,
        page: PageRequest,
        order: Order,
        read: impl FnMut(&mut Columns<'_>) -> Read<T>,
        place_of: impl Fn(&T) -> Cursor,
    ) -> Result<Page<T>, StorageError> {
        let (newer, place) = match page.from() {
            None => (false, None),
            Some(PageFrom::After(cursor)) => (false, Some(cursor)),
            Some(PageFrom::Before(cursor)) => (true, Some(cursor)),
        };
        self.bits = self.bits << 2 | u32::from(newer) << 1 | u32::from(place.is_some());
        if let Some(cursor) = place {
            self.sql.push(" and (").push(order.at).push(", ").push(order.id);
            if let Some(tie) = order.tie {
                self.sql.push(", ").push(tie);
            }
            self.sql.push(if newer { ") > ($" } else { ") < ($" });
            self.argument(Time(cursor.at));
            self.sql.push(", $");
            self.argument(cursor.id);
            if order.tie.is_some() {
                self.sql.push(", $");
                self.argument(cursor.tie);
            }
            self.sql.push(")");
        }
        let direction = if newer { "" } else { " desc" };
        self.sql.push(" order by ").push(order.at).push(direction);
        for column in [Some(order.id), order.tie].into_iter().flatten() {
            self.sql.push(", ").push(column).push(direction);
        }
        // A planner that does not know the limit expects a tenth of the table, and sorts that instead of walking the index.
        self.sql.push(" limit ").push_number(PageRequest::LIMIT_MAX + 1).push(") page limit $");
        self.argument(crate::read::rows_of(page.limit() + 1));
        let Self { sql, shape, bound, bits, .. } = self;
        let statement = session.sql().shape(shape | bits, || sql);
        let mut data = crate::read::all(&session.rows(statement, bound).await?, read)?;
        let has_more = data.len() > page.limit();
        data.truncate(page.limit());
        let end = data.last().map(place_of);
        if newer {
            data.reverse();
        }
        Ok(Page { data, has_more, next_cursor: end.filter(|_| has_more) })
    }
}

pub(crate) async fn payments(
    session: &impl Session,
    scope: &Scope,
    filter: &PaymentFilter,
    page: PageRequest,
) -> Result<Page<Payment>, StorageError> {
    const ALL: &str = concat!(
        "select ",
        payment_columns!(),
        " from {schema}.payments p where p.merchant = $1 and p.live = $2"
    );
    // The charge or authorization that a key made tells the payment.
    const MADE_UNDER: &str = concat!(
        "select ",
        payment_columns!(),
        " from {schema}.idempotency_keys k ",
        "join {schema}.operations o on o.merchant = k.merchant and o.live = k.live and o.id = k.operation ",
        "and o.payment = k.payment and o.kind in ('charge', 'authorize') ",
        "join {schema}.payments p on p.merchant = k.merchant and p.live = k.live and p.id = k.payment ",
        "where k.merchant = $1 and k.live = $2"
    );
    const ORDER: Order = Order { at: "p.created_at", id: "p.id", tie: None };
    let bound = Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode));
    let key = filter.idempotency_key.as_ref();
    let mut list = match key {
        None => List::new(1, ALL, bound, 2),
        Some(_) => List::new(2, MADE_UNDER, bound, 2),
    };
    list.when("k.key =", key.map(|key| key.as_str()))
        .when("p.status =", filter.status.map(|status| status.as_str()))
        // One that is marked is nobody's until it is rewritten.
        .when(
            concat!(mark!("p", "p.id"), " is null and p.customer_id ="),
            filter.customer.as_ref().map(|id| id.as_str()),
        )
        .when("p.currency =", filter.currency.map(|currency| currency.code()))
        .only("p.unknown_operations > 0", filter.has_unknown)
        .between(ORDER, filter.created_from, filter.created_before);
    let read = |from: &mut Columns<'_>| columns::payment(from, scope);
    list.page(session, page, ORDER, read, |row| Cursor::new(row.created_at, row.id.as_uuid())).await
}

pub(crate) async fn refunds(
    session: &impl Session,
    scope: &Scope,
    payment: Option<PaymentId>,
    page: PageRequest,
) -> Result<Page<Operation>, StorageError> {
    const ALL: &str = concat!(
        "select ",
        operation_columns!(),
        " from {schema}.operations o where o.merchant = $1 and o.live = $2 and o.kind = 'refund'"
    );
    const ORDER: Order = Order { at: "o.created_at", id: "o.id", tie: None };
    let bound = Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode));
    let mut list = List::new(3, ALL, bound, 2);
    list.when("o.payment =", payment.map(|id| id.as_uuid()));
    let place_of = |row: &Operation| Cursor::new(row.created_at, row.id.as_uuid());
    list.page(session, page, ORDER, columns::operation, place_of).await
}

pub(crate) async fn endpoints(
    session: &impl Session,
    scope: &Scope,
    page: PageRequest,
) -> Result<Page<Endpoint>, StorageError> {
    const ALL: &str = concat!(
        "select ",
        endpoint_columns!(),
        " from {schema}.endpoints w where w.merchant = $1 and w.live = $2 and w.status <> 'deleted'"
    );
    const ORDER: Order = Order { at: "w.created_at", id: "w.id", tie: None };
    let bound = Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode));
    let list = List::new(4, ALL, bound, 2);
    let read = |from: &mut Columns<'_>| columns::endpoint(from, scope);
    list.page(session, page, ORDER, read, |row| Cursor::new(row.created_at, row.id.as_uuid())).await
}

pub(crate) async fn deliveries(
    session: &impl Session,
    scope: &Scope,
    filter: &DeliveryFilter,
    page: PageRequest,
) -> Result<Page<Delivery>, StorageError> {
    const ALL: &str = concat!(
        "select ",
        delivery_columns!(),
        " from {schema}.deliveries d where d.merchant = $1 and d.live = $2"
    );
    const ORDER: Order = Order { at: "d.created_at", id: "d.event", tie: Some("d.endpoint") };
    let bound = Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode));
    let mut list = List::new(5, ALL, bound, 2);
    let state = filter.status.map(|status| match status {
        DeliveryStatus::Pending => "pending",
        DeliveryStatus::Delivered => "delivered",
        DeliveryStatus::Failed => "failed",
    });
    list.when("d.state =", state)
        .when("d.endpoint =", filter.endpoint.map(|id| id.as_uuid()))
        .when("d.event_type =", filter.event_type.map(|event_type| event_type.as_str()))
        .between(ORDER, filter.created_from, filter.created_before);
    let read = |from: &mut Columns<'_>| columns::delivery(from, scope);
    list.page(session, page, ORDER, read, place_of_delivery).await
}

fn place_of_delivery(row: &Delivery) -> Cursor {
    let tie = row.id.endpoint().as_uuid();
    Cursor { tie, ..Cursor::new(row.created_at, row.id.event().as_uuid()) }
}

pub(crate) async fn erasures(
    session: &impl Session,
    scope: &Scope,
    customer: Option<CustomerDigest>,
    page: PageRequest,
) -> Result<Page<ErasureProgress>, StorageError> {
    const ALL: &str = concat!(
        "select ",
        erasure_columns!(),
        erasure_tables!(),
        "where y.merchant = $1 and y.live = $2"
    );
    const ORDER: Order = Order { at: "y.requested_at", id: "y.id", tie: None };
    let bound = Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode));
    let mut list = List::new(8, ALL, bound, 2);
    list.when("y.customer =", customer.map(|customer| customer.0.to_vec()));
    let read = |from: &mut Columns<'_>| columns::erasure(from, scope);
    let place_of =
        |row: &ErasureProgress| Cursor::new(row.erasure.requested_at, row.erasure.id.as_uuid());
    list.page(session, page, ORDER, read, place_of).await
}

pub(crate) async fn api_keys(
    session: &impl Session,
    scope: &Scope,
    page: PageRequest,
) -> Result<Page<ApiKey>, StorageError> {
    const ALL: &str = concat!(
        "select ",
        api_key_columns!(),
        " from {schema}.api_keys where merchant = $1 and live = $2"
    );
    const ORDER: Order = Order { at: "created_at", id: "id", tie: None };
    let bound = Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode));
    let list = List::new(7, ALL, bound, 2);
    let place_of = |row: &ApiKey| Cursor::new(row.created_at, row.id.as_uuid());
    list.page(session, page, ORDER, columns::api_key, place_of).await
}

/// Statements of this file have this bit; see `Sql::shape`.
const SHAPES: u32 = 0x2000_0000;
