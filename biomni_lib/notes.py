"""What a run finds out about its machine and its manifests must say: one line for each thing, by name.

Kept for the process, since the finder (a sandbox that starts) and the writer (`provenance.write_manifest`) do not meet.
"""

_noted: dict[str, str] = {}


def note(name: str, text: str) -> None:
    """Have every manifest that this process writes from now on say `text` under `name`; a later note replaces it."""
    _noted[name] = text


def notes() -> dict[str, str]:
    """What has been noted so far."""
    return dict(_noted)
