-- The tables that grow with the payments, each in partitions by a hash of the merchant, so that no table, no index and no vacuum is larger than a
-- share of all. Optional; see docs/scaling.md for when it is worth it. Run once, after the migrations and before the grants, as the role that owns
-- the schema. Later migrations find the tables under their names.
--   {schema}  the schema (pgw)        {partitions}  how many; a line with {n} stands for a line for each of them, numbered from 0
--
-- Pages have room for later versions of their rows; those that are copied will have few. Rows that are there are copied, merchant by merchant, while everybody else waits: do it before there are many.

begin;

alter table {schema}.payments rename to payments_before;
create table {schema}.payments (like {schema}.payments_before including defaults including constraints) partition by hash (merchant);
create table {schema}.payments_{n} partition of {schema}.payments for values with (modulus {partitions}, remainder {n});
insert into {schema}.payments select * from {schema}.payments_before order by merchant;
drop table {schema}.payments_before;
alter table {schema}.payments_{n} set (fillfactor = 70);
create index payments_newest on {schema}.payments (merchant, live, created_at, id);
create index payments_by_status on {schema}.payments (merchant, live, status, created_at, id);
create index payments_by_customer on {schema}.payments (merchant, live, customer_id, created_at, id) where customer_id is not null;
create index payments_by_currency on {schema}.payments (merchant, live, currency, created_at, id);
create index payments_unknown on {schema}.payments (merchant, live, created_at, id) where unknown_operations > 0;
create index payments_expiring on {schema}.payments (expires_at) where status in ('pending', 'requires_action', 'authorized');
alter table {schema}.payments add primary key (merchant, live, id);

alter table {schema}.operations rename to operations_before;
create table {schema}.operations (like {schema}.operations_before including defaults including constraints) partition by hash (merchant);
create table {schema}.operations_{n} partition of {schema}.operations for values with (modulus {partitions}, remainder {n});
insert into {schema}.operations select * from {schema}.operations_before order by merchant;
drop table {schema}.operations_before;
alter table {schema}.operations_{n} set (fillfactor = 45);
create index operations_of_payment on {schema}.operations (merchant, live, payment, place);
create index operations_refunds on {schema}.operations (merchant, live, created_at, id) where kind = 'refund';
create index operations_due on {schema}.operations (due_at) where due_at is not null and buried is null;
create index operations_buried on {schema}.operations (merchant, live, id) where buried is not null;
alter table {schema}.operations add primary key (merchant, live, id);

alter table {schema}.events rename to events_before;
create table {schema}.events (like {schema}.events_before including defaults including constraints) partition by hash (merchant);
create table {schema}.events_{n} partition of {schema}.events for values with (modulus {partitions}, remainder {n});
insert into {schema}.events select * from {schema}.events_before order by merchant;
drop table {schema}.events_before;
create index events_of_payment on {schema}.events (merchant, live, payment, sequence) where payment is not null;
create unique index events_feed on {schema}.events (merchant, live, feed_position) where feed_position is not null;
create index events_unstamped on {schema}.events (created_at, id) where feed_position is null;
alter table {schema}.events add primary key (merchant, live, id);

alter table {schema}.idempotency_keys rename to idempotency_keys_before;
create table {schema}.idempotency_keys (like {schema}.idempotency_keys_before including defaults including constraints) partition by hash (merchant);
create table {schema}.idempotency_keys_{n} partition of {schema}.idempotency_keys for values with (modulus {partitions}, remainder {n});
insert into {schema}.idempotency_keys select * from {schema}.idempotency_keys_before order by merchant;
drop table {schema}.idempotency_keys_before;
create index idempotency_keys_answered on {schema}.idempotency_keys (created_at) where answer_status is not null;
alter table {schema}.idempotency_keys add primary key (merchant, live, key);

alter table {schema}.deliveries rename to deliveries_before;
create table {schema}.deliveries (like {schema}.deliveries_before including defaults including constraints) partition by hash (merchant);
create table {schema}.deliveries_{n} partition of {schema}.deliveries for values with (modulus {partitions}, remainder {n});
insert into {schema}.deliveries select * from {schema}.deliveries_before order by merchant;
drop table {schema}.deliveries_before;
alter table {schema}.deliveries_{n} set (fillfactor = 45);
create index deliveries_newest on {schema}.deliveries (merchant, live, created_at, event, endpoint);
create index deliveries_by_state on {schema}.deliveries (merchant, live, state, created_at, event, endpoint);
create index deliveries_by_endpoint on {schema}.deliveries (merchant, live, endpoint, created_at, event);
create index deliveries_by_type on {schema}.deliveries (merchant, live, event_type, created_at, event, endpoint);
create index deliveries_due on {schema}.deliveries (due_at) where due_at is not null and buried is null;
create index deliveries_due_of_endpoint on {schema}.deliveries (merchant, live, endpoint, due_at) where due_at is not null and buried is null;
create index deliveries_buried on {schema}.deliveries (merchant, live, event, endpoint) where buried is not null;
alter table {schema}.deliveries add primary key (merchant, live, event, endpoint);

alter table {schema}.attempts rename to attempts_before;
create table {schema}.attempts (like {schema}.attempts_before including defaults including constraints) partition by hash (merchant);
create table {schema}.attempts_{n} partition of {schema}.attempts for values with (modulus {partitions}, remainder {n});
insert into {schema}.attempts select * from {schema}.attempts_before order by merchant;
drop table {schema}.attempts_before;
alter table {schema}.attempts add primary key (merchant, live, event, endpoint, number);

alter table {schema}.audit rename to audit_before;
create table {schema}.audit (like {schema}.audit_before including defaults including constraints) partition by hash (merchant);
create table {schema}.audit_{n} partition of {schema}.audit for values with (modulus {partitions}, remainder {n});
insert into {schema}.audit select * from {schema}.audit_before order by merchant;
drop table {schema}.audit_before;
alter table {schema}.audit add primary key (merchant, at, id);

commit;
