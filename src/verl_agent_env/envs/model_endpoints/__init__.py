"""Model endpoints: models of others that environments ask, such as the judge of an answer or the user of a conversation.

The operator's file names the endpoints, clients name an entry of it, and a budget bounds how often each is asked.
"""

from verl_agent_env.envs.model_endpoints.client import UnusableCompletionError
from verl_agent_env.envs.model_endpoints.configuration import (
    ENDPOINTS_VARIABLE,
    EndpointName,
    ModelEndpoint,
    endpoint_named,
    endpoints_in_use,
    read_endpoints,
    use_endpoints,
)
from verl_agent_env.envs.model_endpoints.questions import ask, object_schema, quoted, quoted_history

__all__ = [
    "ENDPOINTS_VARIABLE",
    "EndpointName",
    "ModelEndpoint",
    "UnusableCompletionError",
    "ask",
    "endpoint_named",
    "endpoints_in_use",
    "object_schema",
    "quoted",
    "quoted_history",
    "read_endpoints",
    "use_endpoints",
]
