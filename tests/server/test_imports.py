"""What starting a server brings along."""

from __future__ import annotations

from tests.children import python


def test_a_process_on_its_own_brings_no_client_of_anything() -> None:
    """Clients of Redis, other workers, MCP servers and models take longer to import than the server itself."""
    done = python("-c", "import sys, verl_agent_env.app; print(*sys.modules, sep='\\n')")
    assert done.returncode == 0, done.stderr
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "fastapi" in roots
    assert roots.isdisjoint(
        {"redis", "aiohttp", "httpx", "httpx2", "mcp", "openai", "PIL", "pyarrow", "jsonschema"}
    )
