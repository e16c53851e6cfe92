"""What the keyword `gpu` of a provider becomes: the one place where `[gpus.NAME]` meets the group that is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo.errors import ConfigurationError


def resource_group(name: str, settings: Mapping[str, Any]) -> Any:
    """`name` as a provider takes it; `settings` are the checked places, queue and unload of its table, {} where there is none."""
    if settings:
        raise ConfigurationError(f"gpus.{name}: settings of a group are not supported", code="UNSUPPORTED", details={"field": "gpu"})
    return name
