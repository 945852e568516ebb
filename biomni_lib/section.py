"""What every group of settings is made of."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from biomni_lib.errors import ConfigError


def require(condition: bool, setting: str, rule: str) -> None:
    """Raises: ConfigError about a setting unless the condition holds."""
    if not condition:
        raise ConfigError(f"{setting}: {rule}")


class Section(BaseModel):
    """Base of every group of settings: frozen, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def later(default: Any, **rules: Any) -> Any:
    """A field that joined its section later: left out of keys and manifests while it has its default.

    So what older code made under the same settings stays made.
    """
    return Field(default, exclude_if=lambda value: value == default, **rules)
