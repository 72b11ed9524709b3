#!/bin/sh
# Starts PostgreSQL in the image `postgres`, with the settings of the published image that infra/compose.yaml names:
# POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE and the scripts in /docker-entrypoint-initdb.d.
set -eu

folder=${PGDATA:-/var/lib/postgresql/data}/cluster
if [ ! -d "$folder" ]; then
    rm -rf "$folder.new"
    initdb --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth-local trust --auth-host scram-sha-256 \
        --encoding UTF8 --pgdata "$folder.new"
    echo "host all all all scram-sha-256" >>"$folder.new/pg_hba.conf"
    pg_ctl --wait --pgdata "$folder.new" --options "-c listen_addresses=''" start
    createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    for script in /docker-entrypoint-initdb.d/*.sql; do
        psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 --file "$script"
    done
    pg_ctl --wait --pgdata "$folder.new" stop
    mv "$folder.new" "$folder" # under its final name only when it is whole
fi
exec postgres -D "$folder" -c listen_addresses='*'
