#!/usr/bin/env bash
# Makes the secrets that compose.yaml names, in deploy/secrets, and leaves those that are there alone. Run it once, then keep a copy of
# api_key_pepper and encryption_keys apart from the database and its backups: without the first every API key is lost, without the second
# every signing secret.
#
# The directory is for its owner only. The files in it can be read by the users of the containers, whose numbers are nobody's here.
#
# Usage: deploy/secrets.sh
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
chmod 700 secrets

# make NAME COMMAND…: a secret that is not there yet, whole or not at all.
make() {
    local file=secrets/$1
    shift
    [ -e "$file" ] && return
    "$@" >"$file.part"
    chmod 444 "$file.part"
    mv "$file.part" "$file"
    echo "made $file"
}

# The key is named by the day it was made on, so that a ring of several tells which is which.
ring() {
    printf 'k%s:%s\n' "$(date -u +%Y%m%d)" "$(openssl rand -base64 32)"
}

make db_superuser_password openssl rand -hex 32
make db_owner_password openssl rand -hex 32
make db_password openssl rand -hex 32
make redis_password openssl rand -hex 32
make api_key_pepper openssl rand -base64 32
make encryption_keys ring

if [ ! -e secrets/fullchain.pem ] && [ ! -e secrets/privkey.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
        -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -keyout secrets/privkey.pem.part -out secrets/fullchain.pem.part 2>/dev/null
    chmod 444 secrets/privkey.pem.part secrets/fullchain.pem.part
    mv secrets/privkey.pem.part secrets/privkey.pem
    mv secrets/fullchain.pem.part secrets/fullchain.pem
    echo 'made secrets/fullchain.pem and privkey.pem: signed by themselves, for localhost, for 30 days. Replace them by your own'
elif [ ! -e secrets/fullchain.pem ] || [ ! -e secrets/privkey.pem ]; then
    echo 'only one of secrets/fullchain.pem and privkey.pem is there: put the other beside it, or move it away' >&2
    exit 1
fi
