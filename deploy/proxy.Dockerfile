# The lab's proxy: nginx of Debian, TLS on 8443. Without a certificate in /tls it makes one for itself.
ARG BASE_IMAGE=python:3.11.13-slim-bookworm
FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light=1.22.* openssl=3.0.* \
    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/default
COPY nginx.conf /etc/nginx/nginx.conf
COPY proxy.sh /usr/local/bin/proxy
USER 33:33
EXPOSE 8080 8443
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=10s --timeout=5s --retries=3 \
    CMD ["openssl", "s_client", "-connect", "127.0.0.1:8443", "-brief"]
CMD ["sh", "/usr/local/bin/proxy"]
