# An image a role: `web` (pages, API; no networks), `read` (decodes, writes reports, recovers, migrates), `score`
# (scores on a processor, with networks converted when the image was built), `cpu` (the same with TensorFlow, for
# bundles of a site's own) and `gpu`. All run as an unprivileged user on a read-only file system; /cache, /blobs and
# /scratch are volumes.

# `make pin-images` renews the digest
ARG PYTHON_IMAGE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
RUN useradd --uid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin fractureai \
    && install -d -o fractureai -g fractureai /cache /blobs /scratch /keys
COPY docker/alive /usr/local/bin/
WORKDIR /

# Text layout for the reports, the subsetter that makes them four times faster, and what confines the decoder
FROM base AS reading-base
RUN apt-get update \
    && apt-get install -y --no-install-recommends libpango-1.0-0 libpangoft2-1.0-0 libseccomp2 libharfbuzz-subset0 \
    && rm -rf /var/lib/apt/lists/*

# Dependencies first: their layers change only with the locks. Installing compiles byte code, the project's too
FROM base AS venv
RUN python -m venv /opt/venv
# Wheels that several roles need come once: the builder keeps them beside the images
ENV PIP_CACHE_DIR=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_DEPS=1
WORKDIR /src

# Each role's lock holds that of the role before it, so that a package is installed once for all of them
FROM venv AS web-venv
COPY requirements-web.lock ./
RUN --mount=type=cache,target=/wheels pip install --require-hashes -r requirements-web.lock

FROM web-venv AS read-venv
COPY requirements-read.lock ./
RUN --mount=type=cache,target=/wheels pip install --require-hashes -r requirements-read.lock

FROM read-venv AS score-venv
COPY requirements-score.lock ./
RUN --mount=type=cache,target=/wheels pip install --require-hashes -r requirements-score.lock

FROM score-venv AS cpu-venv
COPY requirements-cpu.lock ./
RUN --mount=type=cache,target=/wheels pip install --require-hashes -r requirements-cpu.lock

FROM read-venv AS gpu-venv
COPY requirements-gpu.lock ./
RUN --mount=type=cache,target=/wheels pip install --require-hashes -r requirements-gpu.lock

FROM web-venv AS web-built
COPY . .
RUN docker/install

FROM read-venv AS read-built
COPY . .
RUN docker/install data

FROM score-venv AS score-built
COPY . .
RUN docker/install data

FROM cpu-venv AS cpu-built
COPY . .
RUN docker/install data

FROM gpu-venv AS gpu-built
COPY . .
RUN docker/install data

# A worker reads its first image seconds after its start: nothing is left to convert
FROM cpu-built AS networks
RUN for bundle in models/bundles/*/; do python -m models.convert "$bundle" --cache /networks || exit 1; done

FROM reading-base AS gpu
COPY --from=gpu-built /opt/venv /opt/venv
USER 10001:10001

FROM reading-base AS cpu
COPY --from=cpu-built /opt/venv /opt/venv
COPY --from=networks /networks /networks
ENV FRACTUREAI_NETWORKS_DIR=/networks
USER 10001:10001

FROM reading-base AS score
COPY --from=score-built /opt/venv /opt/venv
COPY --from=networks /networks /networks
ENV FRACTUREAI_NETWORKS_DIR=/networks
USER 10001:10001

FROM reading-base AS read
COPY --from=read-built /opt/venv /opt/venv
USER 10001:10001

FROM base AS web
COPY --from=web-built /opt/venv /opt/venv
USER 10001:10001
