"""The kit with which a program that uses majordomo is tested: scripted models, recordings, faults made on purpose, no network.

Nothing else in majordomo imports it, and it imports pytest nowhere. Names are loaded when they are first used.
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

_HOME = {
    "majordomo.testing.errors": "NetworkForbiddenError RecordingError RecordingMissingError ScriptError",
    "majordomo.testing.faults": "BadGateway BadJSON CutAfter Fault Garbage ModelLoading RateLimited Refused Slow Status WrongContentType",
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
_NAMES = {name: home for home, names in _HOME.items() for name in names.split()}

__all__ = [  # noqa: RUF022 (as the table has them)
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


def __getattr__(name: str) -> Any:
    home = _NAMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
