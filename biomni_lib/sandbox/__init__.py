"""Where code that models write runs: fast persistent sessions that can do no harm.

`Sandbox.start` loads everything once in a zygote process; each session is a fork of it, shut in by namespaces, a
minimal read-only root, a system-call filter and limits (`isolation.py`), or, where containers forbid namespaces, by
Landlock and a stricter filter (`same_host.py`); `protection.py` says which. What comes back is text (`Observation`).
`start_environment` gives the same from an environment server or from Ray actors, when the settings name one.
"""

from biomni_lib.sandbox.environment import Environment, start_environment
from biomni_lib.sandbox.observation import Observation
from biomni_lib.sandbox.pool import Sandbox
from biomni_lib.sandbox.session import Session

__all__ = ["Environment", "Observation", "Sandbox", "Session", "start_environment"]
