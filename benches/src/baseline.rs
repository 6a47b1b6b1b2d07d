//! What pgbench does to be compared with: payments as somebody would store them who writes SQL by hand and keeps what pgw keeps: the answer once, in the event.

/// The three tables that make a payment once more, with all of their checks and indexes, in a schema of their own.
pub const TABLES: &str = "create schema baseline;
create table baseline.payments (like pgw.payments including all);
create table baseline.events (like pgw.events including all);
create table baseline.idempotency_keys (like pgw.idempotency_keys including all);";

/// (a): BEGIN, three INSERTs, COMMIT.
#[must_use]
pub fn three_inserts() -> String {
    filled(A, ONE)
}

/// (b): the three in one statement.
#[must_use]
pub fn one_statement() -> String {
    filled(B, ONE)
}

/// (c): 64 payments a transaction.
#[must_use]
pub fn many_a_transaction() -> String {
    filled(C, "id")
}

/// A script with what makes a payment, its key and its event filled in: rows like pgw's, with bodies as long as pgw's.
fn filled(script: &str, id: &str) -> String {
    const PAYMENT: &str = "insert into baseline.payments (merchant, live, id, version, sequence, status, currency, amount_minor, \
         authorized_minor, captured_minor, capture_reserved_minor, refunded_minor, refund_reserved_minor, unknown_operations, \
         open_conflicts, needs_review, disputed, capture, customer_email, customer_name, customer_id, metadata, payment_method, \
         processor, expires_at, created_at, updated_at) select 'default', false, {id}, 1, 1, 'pending', 'USD', 4999, 0, 0, 0, 0, 0, \
         0, 0, false, false, 'automatic', 'ada@example.com', 'Ada Lovelace', 'cus_42', '{}', 'tok_visa', 'sandbox', \
         now() + interval '7 days', now(), now()";
    const KEY: &str = "insert into baseline.idempotency_keys (merchant, live, key, fingerprint, payment, operation, answer_status, \
         answer_event, answer_length, created_at) select 'default', false, 'order-' || {id}, decode(repeat('ab', 32), 'hex'), {id}, {id}, 201, \
         {id}, 700, now()";
    const EVENT: &str = "insert into baseline.events (merchant, live, id, event_type, payment, sequence, created_at, body) \
         select 'default', false, {id}, 'payment.created', {id}, 1, now(), convert_to(repeat('x', 860), 'UTF8')";
    let script = script.replace("{payment}", PAYMENT).replace("{key}", KEY);
    script.replace("{event}", EVENT).replace("{id}", id)
}

const ONE: &str = "lpad(to_hex(:n::bigint), 32, '0')::uuid";
const A: &str = "\\set n random(1, 9000000000000000000)
begin;
{payment};
{key};
{event};
commit;
";
const B: &str = "\\set n random(1, 9000000000000000000)
with p as ({payment}), k as ({key}) {event};
";
const C: &str =
    "with ids as materialized (select gen_random_uuid() as id from generate_series(1, 64)), \
    p as ({payment} from ids), k as ({key} from ids) {event} from ids;
";
