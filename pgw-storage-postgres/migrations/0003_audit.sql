-- What audit rows changed, refused access, and the chains of seals.

-- A JSON list of field, old and new value; null for nothing, which is what creations have.
alter table {schema}.audit add column changes text;

-- Those who were refused may be nobody that is known. Rows that are there need not be looked at again: there are fewer kinds among them.
alter table {schema}.audit drop constraint audit_actor_kind_check;
alter table {schema}.audit add constraint audit_actor_kind_check
    check (actor_kind in ('host', 'worker', 'processor', 'key', 'anonymous', 'other')) not valid;

-- Append-only. Each seals up to a thousand rows of its merchant's log, 56 bytes a row: time, id, digest.
create table {schema}.audit_seals (
    merchant text not null,
    number bigint not null check (number > 0),
    previous bytea not null check (length(previous) = 32),
    through_at timestamptz not null,
    through_id uuid not null,
    sealed_at timestamptz not null,
    rows bytea not null check (length(rows) % 56 = 0 and length(rows) <= 56000),
    mac bytea not null check (length(mac) = 32),
    primary key (merchant, number)
);
