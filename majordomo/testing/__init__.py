"""Testing kit for programs that use majordomo.

It has scripted models, recordings of real exchanges, fault injection and a guard against network
access. No other package of majordomo imports it, and only its plugin imports pytest. Names are
imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from majordomo.testing.errors import (
        NetworkForbiddenError,
        RecordingError,
        RecordingMissingError,
        ScriptError,
    )
    from majordomo.testing.fault_injection import Faults
    from majordomo.testing.faults import (
        BadGateway,
        BadJSON,
        CutAfter,
        Fault,
        Garbage,
        ModelLoading,
        RateLimited,
        Refused,
        Slow,
        Status,
        WrongContentType,
    )
    from majordomo.testing.network import no_network
    from majordomo.testing.pause import Pause
    from majordomo.testing.provider import ScriptedProvider
    from majordomo.testing.recording import Recorder
    from majordomo.testing.replaying import Replay
    from majordomo.testing.sample_image import plain_image
    from majordomo.testing.scripted_chat_model import ScriptedChatModel
    from majordomo.testing.scripted_image_model import ScriptedImageModel
else:
    # Type checkers do not see this function, so that they reject a misspelled name.
    def __getattr__(name: str) -> Any:
        module = _NAMES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


_MODULES = {
    "majordomo.testing.errors": (
        "NetworkForbiddenError RecordingError RecordingMissingError ScriptError"
    ),
    "majordomo.testing.faults": (
        "BadGateway BadJSON CutAfter Fault Garbage ModelLoading RateLimited Refused Slow Status "
        "WrongContentType"
    ),
    "majordomo.testing.fault_injection": "Faults",
    "majordomo.testing.network": "no_network",
    "majordomo.testing.scripted_image_model": "ScriptedImageModel",
    "majordomo.testing.pause": "Pause",
    "majordomo.testing.sample_image": "plain_image",
    "majordomo.testing.provider": "ScriptedProvider",
    "majordomo.testing.recording": "Recorder",
    "majordomo.testing.replaying": "Replay",
    "majordomo.testing.scripted_chat_model": "ScriptedChatModel",
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 (in the order of the table above)
    "NetworkForbiddenError",
    "RecordingError",
    "RecordingMissingError",
    "ScriptError",
    "BadGateway",
    "BadJSON",
    "CutAfter",
    "Fault",
    "Faults",
    "Garbage",
    "ModelLoading",
    "RateLimited",
    "Refused",
    "Slow",
    "Status",
    "WrongContentType",
    "no_network",
    "ScriptedImageModel",
    "Pause",
    "plain_image",
    "ScriptedProvider",
    "Recorder",
    "Replay",
    "ScriptedChatModel",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
