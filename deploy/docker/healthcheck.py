"""Ask the server of this container whether it answers; the exit code is 0 if it does.

The address is the one that ``verl-agent-env serve`` is given by its variables. Nothing but the standard library is imported: this runs
every ten seconds.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_TIMEOUT_S = 2.0


def health_url(variables: Mapping[str, str]) -> str:
    """The URL of ``/healthz`` for a server with these variables."""
    host = variables.get("VERL_AGENT_ENV_HOST", "127.0.0.1").strip("[]")
    host = _ANY_ADDRESS.get(host, host)
    scheme = "https" if variables.get("VERL_AGENT_ENV_TLS_CERT") else "http"
    port = variables.get("VERL_AGENT_ENV_PORT", "8000")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/healthz"


def main() -> None:
    """Exit with 0 if the server answers."""
    # The certificate is for the name that clients use, not for this address; the connection does not leave the container.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if os.environ.get("VERL_AGENT_ENV_TLS_CLIENT_CA"):
        # Nobody gets in without a certificate; the workers show each other their own as well.
        context.load_cert_chain(
            os.environ["VERL_AGENT_ENV_TLS_CERT"], os.environ.get("VERL_AGENT_ENV_TLS_KEY") or None
        )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(health_url(os.environ), timeout=_TIMEOUT_S):
            return
    except OSError as refused:
        sys.exit(f"not healthy: {refused}")


if __name__ == "__main__":
    main()
