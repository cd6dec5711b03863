# The server in an image of its own: built in one stage, run in another that has neither a compiler nor pip's cache.
# A release names the base image by its digest (.github/workflows/release.yml).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
# What is installed, and what builds it: exactly what the two files name, by their hashes ('make lock' writes them).
COPY deploy/docker/build-requirements.lock deploy/docker/requirements.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r build-requirements.lock \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index dist/*.whl \
    && /opt/venv/bin/python -m compileall -q /opt/venv/lib \
    && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="verl-agent-env" \
      org.opencontainers.image.description="A server of Gymnasium environments for LLM agents" \
      org.opencontainers.image.licenses="Apache-2.0 AND MIT" \
      org.opencontainers.image.source="https://github.com/verl-agent-env/verl-agent-env" \
      org.opencontainers.image.documentation="https://verl-agent-env.github.io/verl-agent-env/" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# For the Python tool, where the container may make namespaces.
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
# The folder gives its owner to the volume that is mounted there when it is new.
RUN useradd --system --uid 10001 --create-home agent && install --directory --owner=agent /var/lib/nginx-config
COPY --from=build /opt/venv /opt/venv
COPY deploy/docker/healthcheck.py /opt/healthcheck.py
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VERL_AGENT_ENV_HOST=0.0.0.0 \
    VERL_AGENT_ENV_PORT=8000
# By number: Kubernetes' runAsNonRoot does not read names.
USER 10001
WORKDIR /home/agent
EXPOSE 8000
# It follows the variables of the address and of TLS; what a command line says instead, it cannot know.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-I", "/opt/healthcheck.py"]
STOPSIGNAL SIGTERM
CMD ["verl-agent-env", "serve"]
