#!/bin/sh
# As the image postgres: a cluster for POSTGRES_USER with POSTGRES_PASSWORD, and POSTGRES_DB.
set -eu
data=/tmp/data
umask 077
printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
initdb -D "$data" -U "$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --no-sync
rm /tmp/password
# Not heard from outside before the database is there.
pg_ctl -D "$data" -w -o "-h '' -k /tmp" start
if [ "$POSTGRES_DB" != postgres ]; then
    PGPASSWORD=$POSTGRES_PASSWORD createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
fi
pg_ctl -D "$data" -w -m fast stop
echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
exec postgres -D "$data" -h '*' -k /tmp -c fsync=off -c max_connections=200
