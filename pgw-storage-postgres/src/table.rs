//! Tables as targets of writes: how rows become an insert or an update, of one row or of many.

use crate::rows::{
    AnswerRow, ApiKeyRow, AttemptRow, AuditLine, ClaimRow, ConflictRow, ConsentRow, DeliveryRow,
    EndpointRow, ErasureRow, EventRow, Form, OperationRow, PaymentRow, Row,
};
use crate::sql::Template;

/// The backend's time: the server's, moved by what the first argument of every statement says in microseconds, which is nothing
/// outside of tests. Stable within a statement, so that an index can be searched by it.
pub(crate) const NOW: &str = "(statement_timestamp() + $1::bigint * interval '1 microsecond')";

/// A row type that has a table.
pub(crate) trait Target: Row {
    /// The table.
    const TABLE: &'static str;
    /// Inputs that are no columns.
    const INPUTS: &'static [&'static str] = &[];
    /// Columns that are computed.
    const COMPUTED: &'static [(&'static str, &'static [Piece])] = &[];
    /// The columns of the primary key.
    const KEY: &'static [&'static str];
    /// Columns that a later write leaves as they are.
    const KEPT: &'static [&'static str] = &[];
}

/// A piece of an expression.
pub(crate) enum Piece {
    /// As it stands.
    Text(&'static str),
    /// An input of the row.
    In(&'static str),
}

use Piece::{In, Text};

/// When a row is due, and that nobody holds it: a write ends every claim. One of an operation may begin another (see `Handoff`).
const DUE: &[(&str, &[Piece])] = &[
    ("due_at", &[Text(NOW), Text(" + "), In("due_in"), Text(" * interval '1 microsecond'")]),
    ("claimed_until", &[Text("null::timestamptz")]),
    ("claim_fence", &[Text("null::bigint")]),
    ("claims", &[Text("0::bigint")]),
    ("buried", &[Text("null::text")]),
];

impl Target for PaymentRow<'_> {
    const TABLE: &'static str = "payments";
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
}

impl Target for OperationRow<'_> {
    const TABLE: &'static str = "operations";
    const INPUTS: &'static [&'static str] = &["due_in", "held_for", "held_as", "place"];
    const COMPUTED: &'static [(&'static str, &'static [Piece])] = &[
        DUE[0],
        (
            "claimed_until",
            &[Text(NOW), Text(" + "), In("held_for"), Text(" * interval '1 microsecond'")],
        ),
        ("claim_fence", &[In("held_as")]),
        ("claims", &[Text("("), In("held_as"), Text(" is not null)::int::bigint")]),
        DUE[4],
        (
            "place",
            &[
                Text("coalesce("),
                In("place"),
                Text(
                    ", (select coalesce(max(x.place), 0) + 1 from {schema}.operations x where x.merchant = ",
                ),
                In("merchant"),
                Text(" and x.live = "),
                In("live"),
                Text(" and x.payment = "),
                In("payment"),
                Text("))"),
            ],
        ),
    ];
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
    const KEPT: &'static [&'static str] = &["place"];
}

impl Target for EventRow<'_> {
    const TABLE: &'static str = "events";
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
}

impl Target for ClaimRow<'_> {
    const TABLE: &'static str = "idempotency_keys";
    const COMPUTED: &'static [(&'static str, &'static [Piece])] = &[("created_at", &[Text(NOW)])];
    const KEY: &'static [&'static str] = &["merchant", "live", "key"];
}

impl Target for AnswerRow<'_> {
    const TABLE: &'static str = "idempotency_keys";
    const COMPUTED: &'static [(&'static str, &'static [Piece])] =
        &[("answer_event", &[Text("null::uuid")]), ("answer_length", &[Text("null::integer")])];
    const KEY: &'static [&'static str] = &["merchant", "live", "key"];
}

impl Target for ConflictRow<'_> {
    const TABLE: &'static str = "conflicts";
    const KEY: &'static [&'static str] = &["merchant", "live", "payment", "id"];
}

impl Target for EndpointRow<'_> {
    const TABLE: &'static str = "endpoints";
    const INPUTS: &'static [&'static str] = &["filters", "profiles"];
    const COMPUTED: &'static [(&'static str, &'static [Piece])] = &[
        ("filters", &[Text("string_to_array("), In("filters"), Text(", ',')")]),
        ("profiles", &[Text("string_to_array("), In("profiles"), Text(", ',')")]),
        // A write of an endpoint ends its pause.
        ("paused_until", &[Text("null::timestamptz")]),
    ];
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
}

impl Target for DeliveryRow<'_> {
    const TABLE: &'static str = "deliveries";
    const INPUTS: &'static [&'static str] = &["due_in"];
    const COMPUTED: &'static [(&'static str, &'static [Piece])] = DUE;
    const KEY: &'static [&'static str] = &["merchant", "live", "event", "endpoint"];
}

impl Target for AttemptRow<'_> {
    const TABLE: &'static str = "attempts";
    const KEY: &'static [&'static str] = &["merchant", "live", "event", "endpoint", "number"];
}

impl Target for ApiKeyRow<'_> {
    const TABLE: &'static str = "api_keys";
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
}

impl Target for ConsentRow<'_> {
    const TABLE: &'static str = "consents";
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
}

impl Target for ErasureRow<'_> {
    const TABLE: &'static str = "erasures";
    const KEY: &'static [&'static str] = &["merchant", "live", "id"];
}

impl Target for AuditLine<'_> {
    const TABLE: &'static str = "audit";
    const KEY: &'static [&'static str] = &["merchant", "at", "id"];
}

/// Where the inputs of a statement come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inputs {
    /// Arguments from this number on: one row.
    Arguments(usize),
    /// The columns of a relation named `i`: many rows.
    Relation,
}

/// What happens when the row is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The statement fails: such a row is appended once.
    Refused,
    /// It stays, and nothing is inserted.
    Kept,
    /// It is replaced.
    Replaced,
}

/// `insert into T (…) `: the columns.
pub(crate) fn insert_into<R: Target>(to: &mut Template) {
    to.push("insert into {schema}.").push(R::TABLE).push(" (");
    separated(to, columns::<R>(), |to, column| {
        to.push(column);
    });
    to.push(") ");
}

/// The values of the columns of [`insert_into`], in their order.
pub(crate) fn values<R: Target>(to: &mut Template, inputs: Inputs) {
    separated(to, columns::<R>(), |to, column| value::<R>(to, column, inputs));
}

/// `on conflict …`, with nothing before it in the statement.
pub(crate) fn on_existing<R: Target>(to: &mut Template, existing: Existing) {
    match existing {
        Existing::Refused => {}
        Existing::Kept => {
            to.push(" on conflict do nothing");
        }
        Existing::Replaced => {
            to.push(" on conflict (");
            separated(to, R::KEY.iter().copied(), |to, column| {
                to.push(column);
            });
            to.push(") do update set ");
            separated(to, changed::<R>(), |to, column| {
                to.push(column).push(" = excluded.").push(column);
            });
        }
    }
}

/// `update T as t set …`: every column but the key's.
pub(crate) fn update<R: Target>(to: &mut Template, inputs: Inputs) {
    to.push("update {schema}.").push(R::TABLE).push(" as t set ");
    separated(to, changed::<R>(), |to, column| {
        to.push(column).push(" = ");
        value::<R>(to, column, inputs);
    });
}

/// `t.merchant = … and …`: the row with the key of the inputs.
pub(crate) fn is_the_row<R: Target>(to: &mut Template, inputs: Inputs) {
    for (n, column) in R::KEY.iter().enumerate() {
        to.push(if n == 0 { "t." } else { " and t." }).push(column).push(" = ");
        value::<R>(to, column, inputs);
    }
}

/// `(select u.*, … from (select unnest($n::t[]) as …, …) as u) as i`: many rows of a form as a relation, with the number of each row's item
/// first. In a select list the arrays are gone through together, a row at a time; in `from unnest(…, …)` each array is first put into a store
/// of its own, which takes three times as long.
pub(crate) fn unnest<R: Row>(to: &mut Template, form: Form, first: usize) {
    of_form::<R>(to, form, |to| {
        unnest_some::<R>(to, form, first, |_| true);
        to.push(" as u");
    });
}

/// `(select unnest($n::t[]) as …, …)`: some of the columns of many rows.
pub(crate) fn unnest_some<R: Row>(
    to: &mut Template,
    form: Form,
    first: usize,
    is_wanted: impl Fn(&str) -> bool,
) {
    to.push("(select unnest($").push_number(first).push("::int[]) as item");
    for (n, (column, sql)) in R::told(form).enumerate().filter(|told| is_wanted(told.1.0)) {
        to.push(", unnest($").push_number(first + 1 + n).push("::").push(sql);
        to.push("[]) as ").push(column);
    }
    to.push(")");
}

/// `(select u.*, … from (values (…)) as u(…)) as i`: one row as a relation. A planner that knows there is one joins nothing.
pub(crate) fn single<R: Row>(to: &mut Template, form: Form, first: usize) {
    of_form::<R>(to, form, |to| {
        to.push("(values ($").push_number(first).push("::int");
        for (n, (_, sql)) in R::told(form).enumerate() {
            to.push(", $").push_number(first + 1 + n).push("::").push(sql);
        }
        to.push(")) as u(item");
        for (column, _) in R::told(form) {
            to.push(", ").push(column);
        }
        to.push(")");
    });
}

/// What is told of rows, and what is not because rows of this form all have it.
fn of_form<R: Row>(to: &mut Template, form: Form, told: impl FnOnce(&mut Template)) {
    to.push("(select u.*");
    for (column, sql) in R::COLUMNS {
        for (_, _, same) in
            R::SAME.iter().filter(|same| same.0 == *column && same.1.contains(&form))
        {
            to.push(", (").push(same).push(")::").push(sql).push(" as ").push(column);
        }
    }
    to.push(" from ");
    told(to);
    to.push(") as i");
}

fn columns<R: Target>() -> impl Iterator<Item = &'static str> {
    let plain = R::COLUMNS.iter().map(|(column, _)| *column);
    let plain = plain.filter(|column| !R::INPUTS.contains(column));
    plain.chain(R::COMPUTED.iter().map(|(column, _)| *column))
}

fn changed<R: Target>() -> impl Iterator<Item = &'static str> {
    columns::<R>().filter(|column| !R::KEY.contains(column) && !R::KEPT.contains(column))
}

fn value<R: Target>(to: &mut Template, column: &'static str, inputs: Inputs) {
    match R::COMPUTED.iter().find(|(computed, _)| *computed == column) {
        None => input::<R>(to, column, inputs),
        Some((_, pieces)) => {
            for piece in *pieces {
                match piece {
                    Text(text) => {
                        to.push(text);
                    }
                    In(name) => input::<R>(to, name, inputs),
                }
            }
        }
    }
}

fn input<R: Target>(to: &mut Template, name: &'static str, inputs: Inputs) {
    match inputs {
        Inputs::Relation => {
            to.push("i.").push(name);
        }
        Inputs::Arguments(first) => {
            let found = R::COLUMNS.iter().enumerate().find(|(_, (column, _))| *column == name);
            let (at, (_, sql)) = found.expect("expressions name inputs of their own row");
            to.push("$").push_number(first + at).push("::").push(sql);
        }
    }
}

fn separated(
    to: &mut Template,
    parts: impl Iterator<Item = &'static str>,
    mut write: impl FnMut(&mut Template, &'static str),
) {
    for (n, part) in parts.enumerate() {
        if n > 0 {
            to.push(", ");
        }
        write(to, part);
    }
}
