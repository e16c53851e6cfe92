"""Image generation: requests, options, results, events and the interfaces. Performs no I/O."""

from majordomo.errors import CallWarning
from majordomo.imagegen import events, options
from majordomo.imagegen.events import *  # noqa: F403 - the module has an `__all__`
from majordomo.imagegen.model import EventSource, Model, ModelInfo, Provider, Stream, SyncStream
from majordomo.imagegen.options import *  # noqa: F403 - the module has an `__all__`
from majordomo.imagegen.options import Option, Overrides
from majordomo.imagegen.request import Request
from majordomo.imagegen.result import ImageDetails, Result, Usage
from majordomo.media.image_part import ImagePart

Image = ImagePart

__all__ = [
    "CallWarning",
    "EventSource",
    "Image",
    "ImageDetails",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Provider",
    "Request",
    "Result",
    "Stream",
    "SyncStream",
    "Usage",
]
__all__ += events.__all__
__all__ += options.__all__
