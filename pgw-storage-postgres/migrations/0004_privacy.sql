-- Erasures of customers, the payments that each of them marks, and consents. Nothing here says who somebody was: `customer` is a keyed digest whose key is
-- not in this database.

create table {schema}.erasures (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    customer bytea not null check (length(customer) = 32),
    number bigint not null check (number > 0),
    requested_at timestamptz not null
);

create index erasures_newest on {schema}.erasures (merchant, live, requested_at, id);
create index erasures_newest_of_customer on {schema}.erasures (merchant, live, customer, requested_at, id);
create unique index erasures_of_customer on {schema}.erasures (merchant, live, customer, number);
alter table {schema}.erasures add primary key (merchant, live, id);

-- Every read of a payment looks here whether it is marked, so the index of those that are is all but empty, always.
create table {schema}.erased_payments (
    merchant text not null,
    live boolean not null,
    payment uuid not null,
    erasure uuid not null,
    -- When its rows were rewritten; until then, reads redact them.
    redacted_at timestamptz
);

create index erased_payments_of_erasure on {schema}.erased_payments (merchant, live, erasure);
alter table {schema}.erased_payments add primary key (merchant, live, payment);
create index erased_payments_marked on {schema}.erased_payments (merchant, live, payment) where redacted_at is null;

-- What a customer agreed to. Whose it is is one of two: a customer's, or the erasure's that was that customer's.
create table {schema}.consents (
    merchant text not null,
    live boolean not null,
    id uuid not null,
    customer bytea check (length(customer) = 32),
    erasure uuid,
    purpose text not null,
    terms text not null,
    source text,
    given_at timestamptz not null,
    withdrawn_at timestamptz,
    version bigint not null check (version > 0),
    check ((customer is null) <> (erasure is null)),
    check (erasure is null or source is null)
);

create index consents_of_customer on {schema}.consents (merchant, live, customer, given_at, id) where customer is not null;
create index consents_of_erasure on {schema}.consents (merchant, live, erasure, given_at, id) where erasure is not null;
alter table {schema}.consents add primary key (merchant, live, id);
