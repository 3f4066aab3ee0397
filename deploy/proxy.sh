#!/bin/sh
# Start nginx with the certificate in /tls (fullchain.pem, privkey.pem), or with one made for this start.
set -eu
mkdir -p /tmp/tls
if ! ls /tls >/dev/null 2>&1; then
    echo "/tls cannot be read by user $(id -u)" >&2
    exit 1
fi
for file in /tls/fullchain.pem /tls/privkey.pem; do
    if [ -e "$file" ] && ! [ -r "$file" ]; then
        echo "$file cannot be read by user $(id -u)" >&2
        exit 1
    fi
done
if [ -e /tls/fullchain.pem ] && [ -e /tls/privkey.pem ]; then
    ln -sf /tls/fullchain.pem /tls/privkey.pem /tmp/tls/
else
    echo "no certificate in /tls: one is made for ${SERVER_NAME:-localhost}, which browsers will warn of" >&2
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
        -subj "/CN=${SERVER_NAME:-localhost}" -addext "subjectAltName=DNS:${SERVER_NAME:-localhost}" \
        -keyout /tmp/tls/privkey.pem -out /tmp/tls/fullchain.pem 2>/dev/null
fi
port=${HTTPS_PORT:-443}
port=${port##*:} # of ADDRESS:PORT
if [ "$port" = 443 ]; then port=""; else port=":$port"; fi
echo "return 308 https://\$host$port\$request_uri;" >/tmp/redirect.conf
exec nginx -g 'daemon off;'
