# The images: `cpu` for every process of a server, `gpu` for the scoring worker on an NVIDIA card.
# Both run as an unprivileged user on a read-only file system; /tmp and /cache are volumes.

# `make pin-images` renews the digest
ARG PYTHON_IMAGE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
# Text layout for the reports, and the subsetter that makes them four times faster
RUN apt-get update \
    && apt-get install -y --no-install-recommends libpango-1.0-0 libpangoft2-1.0-0 libseccomp2 libharfbuzz-subset0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin fractureai \
    && install -d -o fractureai -g fractureai /cache /blobs \
    && python -m venv /opt/venv
WORKDIR /app

# Dependencies first: this layer changes only with the lock
FROM base AS cpu-packages
COPY requirements-cpu.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r requirements-cpu.lock

FROM base AS gpu-packages
COPY requirements-gpu.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r requirements-gpu.lock

FROM gpu-packages AS gpu
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -e .
USER 10001:10001

FROM cpu-packages AS cpu
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -e .
USER 10001:10001
