# The demo in a container: docker build -t lexiscope . && docker run -p 8000:8000 lexiscope
FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The CPU build of torch unless told otherwise: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch==2.13.0 --index-url ${TORCH_INDEX}
COPY lexiscope lexiscope
COPY trainer trainer
COPY store store
COPY indexer indexer
COPY server server
COPY frontend frontend
COPY cli cli
COPY data/demo data/demo
RUN pip install --no-cache-dir -c constraints.txt -e .
ENV LEXISCOPE_HOST=0.0.0.0
VOLUME ["/app/data/runs", "/app/data/index"]
EXPOSE 8000
CMD ["lexiscope", "demo"]
