-- A claim writes an operation or a delivery once more, and a dispatch its payment. Where the new version has room beside the old one, no index is
-- written; with 85 of 100 filled most had none. Rows that are there stay where they are. On partitioned tables this is a matter of the partitions,
-- and is passed over.

alter table {schema}.payments set (fillfactor = 70);
alter table {schema}.operations set (fillfactor = 45);
alter table {schema}.deliveries set (fillfactor = 45);
