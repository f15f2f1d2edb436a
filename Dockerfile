# The Python the tests run on, by the digest of the multi-platform index.
ARG BASE=python:3.11.15-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba

FROM ${BASE} AS build
WORKDIR /build
COPY image/uv.txt image/setuptools.txt ./
RUN python -m venv uv && uv/bin/pip install --no-cache-dir --require-hashes --requirement uv.txt
ENV PATH=/build/uv/bin:$PATH \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/sidecar \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/sidecar
COPY pyproject.toml uv.lock ./
# Every package comes with its hash from the lock. nkeys is published as source alone: what builds it is pinned
# by hash too, and leaves again.
RUN uv venv --quiet --python /usr/local/bin/python /opt/sidecar \
    && uv pip install --quiet --require-hashes --requirement setuptools.txt \
    && uv sync --frozen --inexact --no-dev --extra tracing --no-build-isolation-package nkeys \
    && uv pip uninstall setuptools
COPY sidecar/ /app/sidecar/
COPY image/ops.py /app/image/
# A read-only root filesystem cannot keep byte code later, and without it a start compiles for seconds.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/sidecar /app

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sphere-sidecar" \
      org.opencontainers.image.description="WebRTC signaling sidecar for DysonNetwork's API gateway" \
      org.opencontainers.image.source="https://github.com/DysonNetwork/sphere-sidecar" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Nothing here installs anything any more, so nothing can.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip
COPY --from=build /opt/sidecar /opt/sidecar
COPY --from=build /app /app
COPY LICENSE /app/
ENV PATH=/opt/sidecar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 65532:65532
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s --retries=3 CMD ["python", "/app/image/ops.py", "health"]
ENTRYPOINT ["python", "-m", "sidecar"]
CMD ["serve"]
