# The server in an image of its own: built in one stage, run in another that has neither a compiler nor pip's cache.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/venv
# The dependencies first: a change of the sources does not install them anew.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/verl_agent_env && touch src/verl_agent_env/__init__.py \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check . \
    && /opt/venv/bin/pip uninstall --yes verl-agent-env \
    # The stand-in for the sources must not be taken for them below.
    && rm -rf build src
COPY src src
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
    && /opt/venv/bin/python -m compileall -q /opt/venv/lib \
    && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

FROM python:3.11-slim-bookworm
# The folder gives its owner to the volume that is mounted there when it is new.
RUN useradd --system --uid 10001 --create-home agent && install --directory --owner=agent /var/lib/nginx-config
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VERL_AGENT_ENV_HOST=0.0.0.0 \
    VERL_AGENT_ENV_PORT=8000
USER agent
WORKDIR /home/agent
EXPOSE 8000
# Python itself asks: the image has no curl.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['VERL_AGENT_ENV_PORT']}/healthz\", timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["verl-agent-env", "serve"]
