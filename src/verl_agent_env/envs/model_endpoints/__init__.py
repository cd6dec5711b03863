"""Model endpoints: models of others that environments ask, such as the judge of an answer.

The operator's file names the endpoints, clients name an entry of it, and a budget bounds how often each is asked.
"""

from verl_agent_env.envs.model_endpoints.client import UnusableCompletionError, complete
from verl_agent_env.envs.model_endpoints.configuration import (
    ENDPOINTS_VARIABLE,
    ModelEndpoint,
    endpoint_named,
    endpoints_in_use,
    read_endpoints,
    use_endpoints,
)

__all__ = [
    "ENDPOINTS_VARIABLE",
    "ModelEndpoint",
    "UnusableCompletionError",
    "complete",
    "endpoint_named",
    "endpoints_in_use",
    "read_endpoints",
    "use_endpoints",
]
