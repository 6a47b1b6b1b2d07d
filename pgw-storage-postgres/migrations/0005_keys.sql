-- An idempotency key may stand for something else than an operation: an endpoint, a delivery, an API key, … by its id.

alter table {schema}.idempotency_keys add column object text;
alter table {schema}.idempotency_keys alter column payment drop not null;
alter table {schema}.idempotency_keys alter column operation drop not null;
alter table {schema}.idempotency_keys add constraint idempotency_keys_stand_for_one
    check ((payment is null) <> (object is null) and (payment is null) = (operation is null)) not valid;
