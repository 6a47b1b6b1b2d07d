#!/usr/bin/env bash
# Brings the schema up to date as its owner and gives the application's role what it needs. Can be run again at any time.
# Runs in the image `tools`, with the owner's settings in the environment.
set -euo pipefail

pgw migrate
grants=$(pgw migrate --export --grants "$DB_USER" "$APP_USER")
PGPASSWORD=$(<"$DB_PASSWORD_FILE")
export PGPASSWORD PGSSLMODE="${DB_SSLMODE:-prefer}"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --single-transaction \
    --host "$DB_HOST" --port "${DB_PORT:-5432}" --username "$DB_USER" --dbname "$DB_NAME" <<<"$grants"
echo "migrate: the schema is up to date, and $APP_USER may do what it needs"
