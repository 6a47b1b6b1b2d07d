-- The answer to a creation is the object that its event tells of. It is kept there, once, and the key says where: the last `answer_length` bytes of
-- the event's body but for the two braces that close it. An answer that no event tells is a body of its own, as before. Processes of before drop
-- answers without what is new here: then it stays, and tells nothing.

alter table {schema}.idempotency_keys add column if not exists answer_event uuid;
alter table {schema}.idempotency_keys add column if not exists answer_length integer;
alter table {schema}.idempotency_keys drop constraint if exists idempotency_keys_check;
alter table {schema}.idempotency_keys drop constraint if exists idempotency_keys_answer_is_one;
alter table {schema}.idempotency_keys add constraint idempotency_keys_answer_is_one check (
    (answer_body is null) = (answer_status is null or answer_event is not null)
    and (answer_event is null) = (answer_length is null)
    and answer_length >= 0
) not valid;
