-- Everything pgw keeps. Merchant first in every key: it is the tenant and, where tables are distributed, the shard.
-- `live` is the mode: false is test mode, true is live mode.
--
-- There are no foreign keys between these tables: each commit checks what it refers to in the statement that writes it, rows are
-- never deleted, and a check by trigger costs a look-up and a row lock for every row. Sums of money are checked here, so that no statement
-- from anywhere can break them.
--
-- Primary keys come after the other indexes of their table: of two indexes that cost the same by what it knows, PostgreSQL takes the later, and
-- on a table that was never analysed that is to be the one that finds a row by its key.

create table {schema}.payments (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    version bigint not null check (version > 0),
    sequence bigint not null check (sequence >= 0),
    status text not null check (status in ('pending', 'requires_action', 'processing', 'unknown', 'authorized', 'partially_captured',
        'succeeded', 'partially_refunded', 'refunded', 'failed', 'canceled', 'expired')),
    currency text not null check (length(currency) = 3),
    amount_minor bigint not null check (amount_minor between 0 and 999999999999999),
    authorized_minor bigint not null check (authorized_minor >= 0),
    captured_minor bigint not null check (captured_minor >= 0),
    capture_reserved_minor bigint not null check (capture_reserved_minor >= 0),
    refunded_minor bigint not null check (refunded_minor >= 0),
    refund_reserved_minor bigint not null check (refund_reserved_minor >= 0),
    unknown_operations bigint not null check (unknown_operations >= 0),
    open_conflicts bigint not null check (open_conflicts >= 0),
    needs_review boolean not null,
    disputed boolean not null,
    capture text not null check (capture in ('automatic', 'manual')),
    customer_email text not null,
    customer_name text not null,
    customer_id text,
    description text,
    metadata text not null,
    payment_method text not null,
    processor text not null,
    processor_reference text,
    failure_code text,
    failure_message text,
    next_action text,
    expires_at timestamptz not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint payments_captured_within_authorized check (captured_minor + capture_reserved_minor <= authorized_minor),
    constraint payments_refunded_within_captured check (refunded_minor + refund_reserved_minor <= captured_minor)
) with (fillfactor = 85);

-- One index for each way a list is asked for: all, by status, by customer, by currency; each in the order of the page.
create index payments_newest on {schema}.payments (merchant, live, created_at, id);
create index payments_by_status on {schema}.payments (merchant, live, status, created_at, id);
create index payments_by_customer on {schema}.payments (merchant, live, customer_id, created_at, id) where customer_id is not null;
create index payments_by_currency on {schema}.payments (merchant, live, currency, created_at, id);
-- What the reaper looks for: payments of any merchant whose time runs out while they wait or are held.
create index payments_expiring on {schema}.payments (expires_at) where status in ('pending', 'requires_action', 'authorized');
alter table {schema}.payments add primary key (merchant, live, id);

create table {schema}.operations (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    payment uuid not null,
    place bigint not null,
    kind text not null check (kind in ('charge', 'authorize', 'capture', 'cancel', 'refund')),
    currency text not null check (length(currency) = 3),
    amount_minor bigint not null check (amount_minor between 0 and 999999999999999),
    state text not null check (state in ('queued', 'dispatched', 'succeeded', 'failed', 'pending', 'requires_action', 'unknown')),
    cause text not null check (cause in ('request', 'expiry')),
    is_final boolean not null,
    attempts bigint not null check (attempts >= 0),
    probes bigint not null check (probes >= 0),
    fence bigint,
    first_dispatched_at timestamptz,
    deadline timestamptz,
    confirmed boolean not null,
    needs_review boolean not null,
    reference text,
    failure_code text,
    failure_message text,
    reason text,
    idempotency_key text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    due_at timestamptz,
    claimed_until timestamptz,
    claim_fence bigint,
    claims bigint not null default 0,
    buried text
) with (fillfactor = 85);

create index operations_of_payment on {schema}.operations (merchant, live, payment, place);
create index operations_refunds on {schema}.operations (merchant, live, created_at, id) where kind = 'refund';
create index operations_due on {schema}.operations (due_at) where due_at is not null and buried is null;
create index operations_buried on {schema}.operations (merchant, live, id) where buried is not null;
alter table {schema}.operations add primary key (merchant, live, id);

create table {schema}.events (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    event_type text not null,
    payment uuid,
    sequence bigint check (sequence > 0),
    created_at timestamptz not null,
    body bytea not null,
    feed_position bigint check (feed_position > 0)
);

create index events_of_payment on {schema}.events (merchant, live, payment, sequence) where payment is not null;
create unique index events_feed on {schema}.events (merchant, live, feed_position) where feed_position is not null;
create index events_unstamped on {schema}.events (created_at, id) where feed_position is null;
alter table {schema}.events add primary key (merchant, live, id);

-- Where each feed stands; the row is locked while positions are given out.
create table {schema}.feeds (
    merchant text not null,
    live boolean not null,
    position bigint not null check (position >= 0),
    primary key (merchant, live)
);

create table {schema}.idempotency_keys (
    merchant text not null,
    live boolean not null,
    key text not null check (length(key) between 1 and 255),
    fingerprint bytea not null check (length(fingerprint) = 32),
    payment uuid not null,
    operation uuid not null,
    answer_status smallint,
    answer_body bytea,
    created_at timestamptz not null,
    check ((answer_status is null) = (answer_body is null))
);

create index idempotency_keys_answered on {schema}.idempotency_keys (created_at) where answer_status is not null;
alter table {schema}.idempotency_keys add primary key (merchant, live, key);

create table {schema}.conflicts (
    merchant text not null,
    live boolean not null,
    payment uuid not null,
    id uuid not null,
    operation uuid not null,
    settled text not null,
    found text not null,
    reference text,
    created_at timestamptz not null,
    closed_at timestamptz,
    primary key (merchant, live, payment, id)
);

create table {schema}.endpoints (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    url text not null,
    description text,
    filters text[] not null,
    profiles text[] not null check (cardinality(profiles) > 0),
    timeout_ms bigint check (timeout_ms > 0),
    concurrency bigint check (concurrency between 1 and 64),
    rate_per_s bigint check (rate_per_s > 0),
    ordering text not null check (ordering in ('none', 'skip', 'park')),
    header_names text,
    headers text,
    secret text not null,
    generation bigint not null check (generation > 0),
    previous_secret text,
    previous_until timestamptz,
    -- The key that all of these are sealed with; empty when it is not one.
    sealed_with text not null,
    status text not null check (status in ('enabled', 'disabled', 'deleted')),
    disabled_reason text,
    failing_since timestamptz,
    pauses bigint not null check (pauses >= 0),
    -- Judged by this server's clock, as due times are.
    paused_until timestamptz,
    version bigint not null check (version > 0),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    check ((previous_secret is null) = (previous_until is null)),
    check ((headers is null) = (header_names is null)),
    check (failing_since is not null or pauses = 0)
);

create index endpoints_newest on {schema}.endpoints (merchant, live, created_at, id) where status <> 'deleted';
create index endpoints_sealed on {schema}.endpoints (sealed_with);
create index endpoints_enabled on {schema}.endpoints (merchant, live) where status = 'enabled';
alter table {schema}.endpoints add primary key (merchant, live, id);

create table {schema}.deliveries (
    merchant text not null,
    live boolean not null,
    event uuid not null,
    endpoint uuid not null,
    event_type text not null,
    payment uuid,
    state text not null check (state in ('pending', 'delivered', 'failed')),
    failed_because text,
    attempts bigint not null check (attempts >= 0),
    attempts_total bigint not null check (attempts_total >= 0),
    version bigint not null check (version > 0),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    due_at timestamptz,
    claimed_until timestamptz,
    claim_fence bigint,
    claims bigint not null default 0,
    buried text,
    check ((state = 'failed') = (failed_because is not null))
) with (fillfactor = 85);

create index deliveries_newest on {schema}.deliveries (merchant, live, created_at, event, endpoint);
create index deliveries_by_state on {schema}.deliveries (merchant, live, state, created_at, event, endpoint);
create index deliveries_by_endpoint on {schema}.deliveries (merchant, live, endpoint, created_at, event);
create index deliveries_by_type on {schema}.deliveries (merchant, live, event_type, created_at, event, endpoint);
create index deliveries_due on {schema}.deliveries (due_at) where due_at is not null and buried is null;
-- Finds the due deliveries of one endpoint behind those of a busy one.
create index deliveries_due_of_endpoint on {schema}.deliveries (merchant, live, endpoint, due_at) where due_at is not null and buried is null;
create index deliveries_buried on {schema}.deliveries (merchant, live, event, endpoint) where buried is not null;
alter table {schema}.deliveries add primary key (merchant, live, event, endpoint);

create table {schema}.attempts (
    merchant text not null,
    live boolean not null,
    event uuid not null,
    endpoint uuid not null,
    number bigint not null check (number > 0),
    started_at timestamptz not null,
    latency_ms bigint not null check (latency_ms >= 0),
    status integer,
    body_start text,
    error text,
    primary key (merchant, live, event, endpoint, number),
    check ((status is null) <> (error is null) and (status is null) = (body_start is null))
);

-- Read by prefix before the merchant is known, hence the one key that does not start with it: small, and a reference table where
-- tables are distributed.
create table {schema}.api_keys (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    role text not null,
    name text not null,
    prefix text not null,
    digest bytea not null check (length(digest) = 32),
    created_at timestamptz not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    version bigint not null check (version > 0)
);

create unique index api_keys_prefix on {schema}.api_keys (prefix);
alter table {schema}.api_keys add primary key (merchant, live, id);

create table {schema}.cursors (
    merchant text not null,
    live boolean not null,
    consumer text not null,
    position bigint not null check (position >= 0),
    primary key (merchant, live, consumer)
);

-- Append-only. The key is the order of the list.
create table {schema}.audit (
    merchant text not null,
    at timestamptz not null,
    id uuid not null,
    live boolean not null,
    actor_kind text not null check (actor_kind in ('host', 'worker', 'processor', 'key', 'other')),
    actor text,
    action text not null,
    success boolean not null,
    origin text,
    object text not null,
    request_id text,
    primary key (merchant, at, id)
);

-- Locks as rows: whoever holds the row of a name does the work of that name.
create table {schema}.leases (
    name text not null primary key
);

insert into {schema}.leases (name) values ('sequencer');
