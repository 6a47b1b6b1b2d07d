-- Two roles: the owner runs migrations and retention, the application reads and writes rows and can do no DDL.
-- Run as a superuser or as the database's owner, after replacing the three names:
--   {schema}  the schema (pgw)        {owner}  the role that owns it        {app}  the role the application connects as
--
-- The audit log and its seals are append-only for the application: it may insert and read, never change or delete. Nothing else is deleted either.

alter schema {schema} owner to {owner};
alter table {schema}.migrations owner to {owner};
alter table {schema}.payments owner to {owner};
alter table {schema}.operations owner to {owner};
alter table {schema}.events owner to {owner};
alter table {schema}.feeds owner to {owner};
alter table {schema}.idempotency_keys owner to {owner};
alter table {schema}.conflicts owner to {owner};
alter table {schema}.endpoints owner to {owner};
alter table {schema}.deliveries owner to {owner};
alter table {schema}.attempts owner to {owner};
alter table {schema}.api_keys owner to {owner};
alter table {schema}.cursors owner to {owner};
alter table {schema}.audit owner to {owner};
alter table {schema}.audit_seals owner to {owner};
alter table {schema}.leases owner to {owner};
alter table {schema}.shield owner to {owner};
alter table {schema}.erasures owner to {owner};
alter table {schema}.erased_payments owner to {owner};
alter table {schema}.consents owner to {owner};
grant usage on schema {schema} to {app};

grant select, insert, update on
    {schema}.payments, {schema}.operations, {schema}.events, {schema}.feeds, {schema}.idempotency_keys, {schema}.conflicts,
    {schema}.endpoints, {schema}.deliveries, {schema}.attempts, {schema}.api_keys, {schema}.cursors
    to {app};
grant select, insert on {schema}.audit, {schema}.audit_seals to {app};
-- That somebody was erased is never changed or forgotten. Its row is locked for the next one, which needs the right to update a column.
grant select, insert, update (number) on {schema}.erasures to {app};
grant select, insert, update on {schema}.erased_payments, {schema}.consents to {app};
-- Locking a lease's row needs the right to update it.
grant select, update on {schema}.leases to {app};
-- The shield has one row, which stays.
grant select, update on {schema}.shield to {app};
grant select on {schema}.migrations to {app};
