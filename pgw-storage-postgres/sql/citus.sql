-- Spreads the tables over the workers of Citus by merchant: all rows of a merchant lie together, so a commit and a read are one worker's. Run once on the
-- coordinator, after the migrations and the grants, as the role that owns the schema, with the extension `citus` there.
--   {schema}  the schema (pgw)
--
-- Rows that are there are moved to the workers. Then tell the storage: `Engine::Distributed`.

-- Of no merchant, or read before the merchant is known: a few rows, the same on every worker.
select create_reference_table('{schema}.migrations');
select create_reference_table('{schema}.leases');
select create_reference_table('{schema}.shield');
select create_reference_table('{schema}.api_keys');

-- Of a merchant. The first begins the group that the others lie together with.
select create_distributed_table('{schema}.payments', 'merchant', colocate_with => 'none');
select create_distributed_table('{schema}.operations', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.events', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.feeds', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.idempotency_keys', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.conflicts', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.endpoints', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.deliveries', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.attempts', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.cursors', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.audit', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.audit_seals', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.erasures', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.erased_payments', 'merchant', colocate_with => '{schema}.payments');
select create_distributed_table('{schema}.consents', 'merchant', colocate_with => '{schema}.payments');
