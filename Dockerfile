# One image for every role: the command decides (api, worker, dispatcher, migrate).
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/bitbudget
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY workers workers
COPY pipeline pipeline
COPY network network
COPY quantization quantization
COPY sensitivity sensitivity
COPY planner planner
COPY evaluation evaluation
COPY migrations migrations
# constraints.txt names the torch build; pass PIP_EXTRA_INDEX_URL to take its CPU wheel from elsewhere.
ARG PIP_EXTRA_INDEX_URL=""
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL}" \
    /opt/bitbudget/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 bitbudget \
    && mkdir --mode=700 /data && chown bitbudget /data
COPY --from=build /opt/bitbudget /opt/bitbudget
ENV PATH=/opt/bitbudget/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BITBUDGET_HOME=/data
USER bitbudget
VOLUME /data
EXPOSE 8000
CMD ["bitbudget", "serve", "--host", "0.0.0.0", "--no-worker"]
