set -eu
data=/var/lib/postgresql/data
if ! test -f $data/PG_VERSION; then
    echo "$POSTGRES_PASSWORD" > /tmp/password
    initdb -D $data -U "$POSTGRES_USER" --pwfile /tmp/password --auth-host scram-sha-256 --auth-local trust \
        -E UTF8 --locale=C.UTF-8
    echo "host all all all scram-sha-256" >> $data/pg_hba.conf
    pg_ctl -D $data -w -o "-k /tmp" start
    createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -D $data -w stop
fi
exec postgres -D $data -k /tmp -c listen_addresses='*'
