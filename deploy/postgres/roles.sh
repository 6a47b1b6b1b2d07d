#!/usr/bin/env bash
# Makes the two roles and the database, once, when the server's directory is made: the image runs what is in /docker-entrypoint-initdb.d.
# The owner migrates and purges; the application reads and writes rows and can do no DDL. What exactly it may is in `pgw migrate --export --grants`.
set -euo pipefail

# psql reads the passwords from files by itself: on a command line every user of the machine would see them.
export SECRETS_DIR=${SECRETS_DIR:-/run/secrets}
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set owner_password `cat "$SECRETS_DIR/db_owner_password"`
\set app_password `cat "$SECRETS_DIR/db_password"`
create role pgw_owner login password :'owner_password' connection limit 10;
create role pgw_app login password :'app_password';
create database pgw owner pgw_owner;
revoke all on database pgw from public;
grant connect on database pgw to pgw_app;
\connect pgw
revoke all on schema public from public;
-- Whoever forgets a transaction or a lock must not hold up the others.
alter role pgw_app set idle_in_transaction_session_timeout = '60s';
alter role pgw_app set lock_timeout = '30s';
alter role pgw_app set statement_timeout = '60s';
SQL
