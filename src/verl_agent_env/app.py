"""The application that ``uvicorn src.verl_agent_env.app:app`` serves, set by ``VERL_AGENT_ENV_*`` variables."""

import os

from verl_agent_env.config import settings_from_environment
from verl_agent_env.server import create_app
from verl_agent_env.server.http.logs import configure_logging

_settings = settings_from_environment(os.environ)
configure_logging(_settings.log_level, _settings.log_format, _settings.max_log_lines_per_s)
app = create_app(_settings)
