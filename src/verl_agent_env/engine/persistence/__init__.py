"""What is kept of live environments outside this process, and how it is brought back."""

from typing import NamedTuple

from verl_agent_env.engine.persistence.recorder import Recorder
from verl_agent_env.engine.persistence.recovery import Recovery


class Persistence(NamedTuple):
    """The two halves of what keeps one host's environments outside its process."""

    recorder: Recorder
    recovery: Recovery
