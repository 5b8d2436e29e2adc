# One image for every role: the command decides (api, worker, dispatcher, migrate).
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/bitbudget
COPY constraints.txt requirements.lock ./
RUN /opt/bitbudget/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock
# torch alone comes from PyTorch's own index: elsewhere its wheels for Linux bring gigabytes for CUDA along. What it
# needs is in the lock.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/bitbudget/bin/pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" \
    "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
COPY pipeline pipeline
COPY network network
COPY quantization quantization
COPY sensitivity sensitivity
COPY planner planner
COPY evaluation evaluation
COPY report report
COPY migrations migrations
COPY client client
RUN /opt/bitbudget/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./client .

FROM python:3.11.14-slim-bookworm
# bubblewrap: walls around the process that runs models, where the container may make namespaces (docs/operations.md).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 bitbudget \
    && install --directory --mode=700 --owner=bitbudget /data /data/spool
COPY --from=build /opt/bitbudget /opt/bitbudget
# The root file system may be read-only: what is written goes to the volume, also what Python calls temporary.
ENV PATH=/opt/bitbudget/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    BITBUDGET_HOME=/data \
    TMPDIR=/data/spool
USER bitbudget
VOLUME /data
EXPOSE 8000
CMD ["bitbudget", "serve", "--host", "0.0.0.0", "--no-worker"]
