"""Image generation: requests, options, results, events and the interfaces. Performs no I/O."""

from majordomo.backend_status import Loading, Queued
from majordomo.errors import CallWarning
from majordomo.imagegen.events import Done, ImageEvent, Preview, Step
from majordomo.imagegen.model import EventSource, Model, ModelInfo, Provider, Stream, SyncStream
from majordomo.imagegen.options import (
    Option,
    with_aspect,
    with_background,
    with_cfg_scale,
    with_extra,
    with_image_count,
    with_image_size,
    with_images,
    with_mask,
    with_megapixels,
    with_negative_prompt,
    with_output_format,
    with_previews,
    with_quality,
    with_random_seed,
    with_sampler,
    with_scheduler,
    with_seed,
    with_steps,
    with_strength,
    with_user_id,
)
from majordomo.imagegen.request import Overrides, Request
from majordomo.imagegen.result import ImageDetails, Result, Usage
from majordomo.media.image_part import ImagePart

Image = ImagePart

__all__ = [
    "CallWarning",
    "Done",
    "EventSource",
    "Image",
    "ImageDetails",
    "ImageEvent",
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
    "with_aspect",
    "with_background",
    "with_cfg_scale",
    "with_extra",
    "with_image_count",
    "with_image_size",
    "with_images",
    "with_mask",
    "with_megapixels",
    "with_negative_prompt",
    "with_output_format",
    "with_previews",
    "with_quality",
    "with_random_seed",
    "with_sampler",
    "with_scheduler",
    "with_seed",
    "with_steps",
    "with_strength",
    "with_user_id",
]
