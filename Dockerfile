# Lexiscope with its bundled model: docker build -t lexiscope . && docker run -p 127.0.0.1:8000:8000 lexiscope
# Dictionaries and index are made at the first start, into the volume /data, with the progress on the page and
# in the log: an index in the image would be hidden by a volume that has another one, and would be in every
# copy of the image.
# Any Debian 12 with Python 3.11 can be the base; `make docker-test` makes one without a registry.
ARG BASE_IMAGE=python:3.11.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python3 -m venv /opt/lexiscope
ENV PATH=/opt/lexiscope/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY constraints.txt ./
# The CPU build of torch; for CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# A page of wheels to look at too.
ARG WHEELS=
RUN pip install --no-cache-dir -c constraints.txt torch==2.13.0 --index-url "${TORCH_INDEX}" ${WHEELS:+--find-links "${WHEELS}"}
# What is slow to install comes before the sources, which change more often.
COPY pyproject.toml README.md LICENSE ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r requirements.txt
COPY lexiscope lexiscope
COPY trainer trainer
COPY store store
COPY indexer indexer
COPY server server
COPY frontend frontend
COPY cli cli
COPY studies studies
COPY data/demo data/demo
RUN pip install --no-cache-dir --no-deps -c constraints.txt .

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Lexiscope" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin lexiscope \
    && install -d -o lexiscope -g lexiscope /data
COPY --from=build /opt/lexiscope /opt/lexiscope
ENV PATH=/opt/lexiscope/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    LEXISCOPE_HOST=0.0.0.0 \
    LEXISCOPE_INDEX=/data/index \
    LEXISCOPE_RUNS=/data/runs \
    LEXISCOPE_LENSES=/data/lenses \
    LEXISCOPE_TABLES=/data/tables \
    LEXISCOPE_STUDIES=/data/studies \
    LEXISCOPE_LOG_FORMAT=json \
    LEXISCOPE_LOG_LEVEL=info
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["lexiscope", "demo"]
