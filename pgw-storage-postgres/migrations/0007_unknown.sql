-- Payments with an outcome that is unknown, which may be a refund's: their status does not tell. There are few, so the index is small; what makes it
-- reads the table once, and writers wait for that.

create index if not exists payments_unknown on {schema}.payments (merchant, live, created_at, id) where unknown_operations > 0;
