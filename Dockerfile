# syntax=docker/dockerfile:1
# Two stages: the environment and the dashboard are built with tools that the running image does not have.
FROM node:22-bookworm-slim AS dashboard
WORKDIR /build
COPY control/dashboard/package.json control/dashboard/package-lock.json control/dashboard/.npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY control/dashboard/ ./
RUN npx tsc --noEmit && node build.mjs

FROM python:3.11-slim-bookworm AS environment
WORKDIR /opt/ta
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
COPY requirements.lock pyproject.toml README.md ./
RUN .venv/bin/uv pip sync --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
COPY kernels/ kernels/
COPY engine/ engine/
COPY store/ store/
COPY control/ control/
COPY docs/ops/runbook/ docs/ops/runbook/
COPY --from=dashboard /build/dist/ control/dashboard/dist/
RUN .venv/bin/uv pip install --python .venv/bin/python --no-deps --no-build-isolation --editable . \
    && .venv/bin/python -m compileall -q control engine kernels store

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 ta \
    && useradd --system --uid 10001 --gid ta --no-create-home --shell /usr/sbin/nologin ta \
    && mkdir -p /var/lib/ta /var/cache/ta && chown ta:ta /var/lib/ta /var/cache/ta
COPY --from=environment /opt/ta /opt/ta
ENV PATH=/opt/ta/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TA_DATA_DIR=/var/lib/ta \
    TA_COMPILE_CACHE=/var/cache/ta
USER 10001:10001
WORKDIR /opt/ta
VOLUME ["/var/lib/ta", "/var/cache/ta"]
EXPOSE 7101
STOPSIGNAL SIGTERM
ENTRYPOINT ["ta"]
CMD ["up"]
