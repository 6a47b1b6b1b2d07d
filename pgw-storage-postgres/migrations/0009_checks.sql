-- What a column may hold, as a list that is a constant: the server reads each check anew for every statement that writes, and made the lists as they
-- were out of their texts each time. What is there passed the same checks. A statement for each, which is all that Citus takes.

alter table {schema}.payments drop constraint if exists payments_status_check;
alter table {schema}.payments add constraint payments_status_check check (status = any ('{pending,requires_action,processing,unknown,authorized,partially_captured,succeeded,partially_refunded,refunded,failed,canceled,expired}')) not valid;
alter table {schema}.payments drop constraint if exists payments_capture_check;
alter table {schema}.payments add constraint payments_capture_check check (capture = any ('{automatic,manual}')) not valid;
alter table {schema}.operations drop constraint if exists operations_kind_check;
alter table {schema}.operations add constraint operations_kind_check check (kind = any ('{charge,authorize,capture,cancel,refund}')) not valid;
alter table {schema}.operations drop constraint if exists operations_state_check;
alter table {schema}.operations add constraint operations_state_check check (state = any ('{queued,dispatched,succeeded,failed,pending,requires_action,unknown}')) not valid;
alter table {schema}.operations drop constraint if exists operations_cause_check;
alter table {schema}.operations add constraint operations_cause_check check (cause = any ('{request,expiry}')) not valid;
alter table {schema}.deliveries drop constraint if exists deliveries_state_check;
alter table {schema}.deliveries add constraint deliveries_state_check check (state = any ('{pending,delivered,failed}')) not valid;
alter table {schema}.audit drop constraint if exists audit_actor_kind_check;
alter table {schema}.audit add constraint audit_actor_kind_check check (actor_kind = any ('{host,worker,processor,key,anonymous,other}')) not valid;
