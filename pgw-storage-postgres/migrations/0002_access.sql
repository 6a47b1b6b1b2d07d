-- API keys: why one was revoked and when it last opened something, and the order of their list.
alter table {schema}.api_keys add column revoked_because text;
alter table {schema}.api_keys add column last_used_at timestamptz;

create index api_keys_by_time on {schema}.api_keys (merchant, live, created_at, id);

-- What holds for all merchants: the denylist and the freeze. One row, read whole and written whole; the arrays have one item for each network. A
-- reference table where tables are distributed.
create table {schema}.shield (
    id smallint not null primary key check (id = 1),
    version bigint not null check (version >= 0),
    networks text[] not null,
    reasons text[] not null,
    created_at timestamptz[] not null,
    created_by text[] not null,
    expires_at timestamptz[] not null,
    frozen_because text,
    frozen_since timestamptz,
    frozen_by text,
    check (cardinality(networks) <= 10000 and cardinality(networks) = cardinality(reasons)
        and cardinality(networks) = cardinality(created_at) and cardinality(networks) = cardinality(created_by)
        and cardinality(networks) = cardinality(expires_at)),
    check ((frozen_because is null) = (frozen_since is null) and (frozen_because is null) = (frozen_by is null))
);

insert into {schema}.shield (id, version, networks, reasons, created_at, created_by, expires_at)
    values (1, 0, '{}', '{}', '{}', '{}', '{}');
