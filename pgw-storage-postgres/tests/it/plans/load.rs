//! A database as a busy platform has it after two months: a hundred thousand payments of three large and ten small merchants.

use pgw_storage_postgres::Schema;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, PgConnection, raw_sql};

use super::FLUSH;

/// A merchant with half of all, and one with a hundredth.
pub(super) const LARGE: &str = "large";
pub(super) const SMALL: &str = "small-17";

/// The pages that a vacuum touches would count as those of whatever is called meanwhile.
pub(super) const ALONE: &str = "
do $$ declare t regclass; begin
    for t in select oid from pg_class where relnamespace = '{schema}'::regnamespace and relkind = 'r' loop
        execute format('alter table %s set (autovacuum_enabled = off)', t);
    end loop;
end $$";

/// The tables of this schema only: what another test counts meanwhile is its own.
const ANALYZE: &str = "
do $$ declare t regclass; begin
    for t in select oid from pg_class where relnamespace = '{schema}'::regnamespace and relkind in ('r', 'p') loop
        execute format('analyze %s', t);
    end loop;
end $$";

/// The minute of each payment, and what chance says of it. Everything else is derived from these.
const BASE: &str = "
create function pg_temp.id(at timestamptz, what text, n bigint) returns uuid immutable language sql as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(what || n), 1, 3) || '8'
        || substr(md5(what || n), 4, 15))::uuid $$;
create temp table base as
    select n, pg_temp.id(at, 'payment', n) as id, at, h, chance, old,
        case when h % 100 < 50 then 'large' when h % 100 < 75 then 'second' when h % 100 < 90 then 'third'
            else 'small-' || h % 20 end as merchant,
        h / 100 % 10 < 8 as live,
        1000 + h % 100000 as amount,
        case when chance < 780 then 'succeeded' when chance < 830 then 'refunded' when chance < 850 then 'partially_refunded'
            when chance < 960 then 'failed' when chance < 975 then 'canceled' when chance < 985 or old and n % 50 > 0 then 'expired'
            when chance < 990 then 'authorized' when chance < 993 then 'processing' when chance < 995 then 'unknown'
            when chance < 997 then 'requires_action' else 'pending' end as status
    from (select n, date_trunc('minute', now()) - (100000 - n) * interval '1 minute' as at, n < 90000 as old,
            ('x' || substr(md5(n::text), 1, 7))::bit(28)::int as h, ('x' || substr(md5('c' || n), 1, 7))::bit(28)::int % 1000 as chance
        from generate_series(1, 100000) n) x;
analyze base;
";

const PAYMENTS: &str = "
insert into {schema}.payments (merchant, live, id, version, sequence, status, currency, amount_minor, authorized_minor, captured_minor,
    capture_reserved_minor, refunded_minor, refund_reserved_minor, unknown_operations, open_conflicts, needs_review, disputed, capture,
    customer_email, customer_name, customer_id, description, metadata, payment_method, processor, expires_at, created_at, updated_at)
select merchant, live, id, 3, 1 + n % 2, status,
    case when h % 97 < 66 then 'USD' when h % 97 < 92 then 'EUR' when h % 97 < 96 then 'GBP' else 'JPY' end,
    amount, a, c, 0, r, 0, case when status = 'unknown' or h % 500 = 7 then 1 else 0 end, 0, false, false, 'automatic', 'customer-' || h % 20000 || '@example.com', 'A customer',
    case when h % 5 > 0 then 'cust_' || h / 7 % 20000 end, 'Order ' || n, '{\"order\":\"' || n || '\"}', 'tok_visa', 'sandbox',
    at + interval '7 days', at, at + interval '2 seconds'
from (select *, case when c > 0 or status = 'authorized' then amount else 0 end as a from (
    select *, case when chance < 850 then amount else 0 end as c,
        case status when 'refunded' then amount when 'partially_refunded' then amount / 2 else 0 end as r from base) x) y;

insert into {schema}.operations (merchant, live, id, payment, place, kind, currency, amount_minor, state, cause, is_final, attempts, probes,
    confirmed, needs_review, idempotency_key, created_at, updated_at, due_at)
select merchant, live, pg_temp.id(at, 'charge', n), id, 128, 'charge', 'USD', amount,
    case when chance < 850 then 'succeeded' when chance < 960 then 'failed' else 'unknown' end, 'request', chance < 960, 1, 0,
    false, false, 'order-' || n, at, at + interval '2 seconds',
    case when n > 98000 and h % 4 = 0 then now() + (n % 120 - 90) * interval '1 minute' end from base
union all
select merchant, live, pg_temp.id(at, 'refund', n), id, 384, 'refund', 'USD', amount / 2, 'succeeded', 'request', true, 1, 0,
    false, false, null, at + interval '1 minute', at + interval '1 minute', null from base where chance between 780 and 849;

insert into {schema}.idempotency_keys (merchant, live, key, fingerprint, payment, operation, answer_status, answer_body, created_at)
select merchant, live, 'order-' || n, sha256(n::text::bytea), id, pg_temp.id(at, 'charge', n),
    case when n > 40000 then 201 end, case when n > 40000 then repeat('x', 200)::bytea end, at from base;

insert into {schema}.conflicts (merchant, live, payment, id, operation, settled, found, created_at)
select merchant, live, id, pg_temp.id(at, 'conflict', n), pg_temp.id(at, 'charge', n), 'failed', 'succeeded', at from base where n % 50 = 0;

insert into {schema}.audit (merchant, at, id, live, actor_kind, action, success, object)
select merchant, at, pg_temp.id(at, 'audit', n), live, 'host', 'payment.create', true, 'pay_00000000000000000000000000' from base;

insert into {schema}.audit_seals (merchant, number, previous, through_at, through_id, sealed_at, rows, mac)
select merchant, n, sha256('x'), at, pg_temp.id(at, 'audit', n), at, '', sha256('x')
from (select merchant, min(at) as at from base group by merchant) x, generate_series(1, 2000) n;
";

const EVENTS: &str = "
insert into {schema}.endpoints (merchant, live, id, url, filters, profiles, ordering, secret, generation, sealed_with, status, pauses, version,
    created_at, updated_at)
select merchant, live, pg_temp.id(least, merchant || live, k), 'https://hooks.example.com/in', '{}', '{standard}',
    'none', 'v1.k1.' || repeat('A', 40), 1, 'k1', case when k = 1 then 'enabled' else 'deleted' end, 0, 1, least, least
from (select merchant, live, min(at) as least from base group by merchant, live) x, generate_series(1, 2) k;

create temp table said as
    select b.merchant, b.live, pg_temp.id(b.at, 'event' || k, b.n) as id, b.id as payment, b.n, b.h, k,
        b.at + k * interval '1 second' as at, e.id as endpoint,
        case when k = 1 then 'payment.created' when chance < 850 then 'payment.succeeded' else 'payment.failed' end as event_type
    from base b cross join generate_series(1, 2) k join {schema}.endpoints e
        on e.merchant = b.merchant and e.live = b.live and e.status = 'enabled' where k = 1 or b.n % 2 = 1;

insert into {schema}.events (merchant, live, id, event_type, payment, sequence, created_at, body, feed_position)
select merchant, live, id, event_type, payment, k, at, repeat('x', 300)::bytea,
    case when n <= 99000 then row_number() over (partition by merchant, live order by at, id) end from said;

insert into {schema}.feeds (merchant, live, position)
select merchant, live, max(feed_position) from {schema}.events where feed_position is not null group by merchant, live;

insert into {schema}.deliveries (merchant, live, event, endpoint, event_type, payment, state, failed_because, attempts, attempts_total, version,
    created_at, updated_at, due_at)
select merchant, live, id, endpoint, event_type, payment, state, case state when 'failed' then 'exhausted' end, 1, 1, 2, at, at,
    case state when 'pending' then now() + (n % 120 - 90) * interval '1 minute' end
from (select *, case when n > 99500 then 'pending' when n % 40 = 3 then 'failed' else 'delivered' end as state from said) x;

insert into {schema}.attempts (merchant, live, event, endpoint, number, started_at, latency_ms, status, body_start)
select merchant, live, id, endpoint, 1, at, 40, 200, 'ok' from said where n % 2 = 0;

insert into {schema}.api_keys (merchant, live, id, role, name, prefix, digest, created_at, version)
select merchant, live, pg_temp.id(at, 'key', n), 'service', 'checkout', substr(md5('key' || n), 1, 12), sha256(n::text::bytea), at, 1
from base where n % 50 = 1;

insert into {schema}.cursors (merchant, live, consumer, position)
select merchant, live, 'books', position from {schema}.feeds;
";

/// Loads it all, and lets PostgreSQL look at it.
pub(super) async fn load(connection: &mut PgConnection, schema: &Schema) {
    for part in [ALONE, BASE, PAYMENTS, EVENTS, ANALYZE, FLUSH] {
        let sql = part.replace("{schema}", schema.as_str());
        raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.expect("valid rows");
    }
}
