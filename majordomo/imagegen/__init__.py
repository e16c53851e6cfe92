"""Image generation: requests, options, results, events and the interfaces. Performs no I/O."""

from majordomo.backend_status import Loading, Queued
from majordomo.errors import CallWarning
from majordomo.imagegen import options
from majordomo.imagegen.events import Done, ImageEvent, Preview, Step
from majordomo.imagegen.model import ImageSource, Model, ModelInfo, Provider, Stream, SyncStream
from majordomo.imagegen.options import *  # noqa: F403 - the module is generated, with its own `__all__`
from majordomo.imagegen.options import Option, Overrides
from majordomo.imagegen.request import Request
from majordomo.imagegen.result import ImageDetails, Result, Usage
from majordomo.media.image_part import ImagePart

Image = ImagePart

__all__ = [
    "CallWarning",
    "Done",
    "Image",
    "ImageDetails",
    "ImageEvent",
    "ImageSource",
    "Loading",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Preview",
    "Provider",
    "Queued",
    "Request",
    "Result",
    "Step",
    "Stream",
    "SyncStream",
    "Usage",
]
__all__ += options.__all__
