"""What image backends with a queue or a progress route report, whatever their dialect.

A dialect decodes its own JSON into these values; the image models in `models` know no vendor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from majordomo.errors import CallWarning
from majordomo.imagegen import Result
from majordomo.media.image_part import ImagePart
from majordomo.transport_types import HTTPRequest


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of a polled job: queued, running (no field is set) or finished."""

    position: int | None = None
    """Position in the backend's queue from 1, None when the job is not queued."""
    result: Result | None = None
    """The result, None until the job has finished."""
    ended: bool = False
    """Whether the job has finished and its result has to be fetched with a request of its own."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The images of a finished job, as its result names them."""

    images: tuple[HTTPRequest | ImagePart, ...]
    """For each image, in order, the request that fetches it, or the image itself where the result
    contained it."""
    raw: Any
    """The backend's own record of the job, without image data."""
    warnings: tuple[CallWarning, ...] = ()
    """What the backend did not do of the request."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of the job that the backend runs now, which may be another client's."""

    task: str | None
    """Id of the task that runs; None when this version of the backend does not report it."""
    busy: bool
    """Whether a job runs."""
    image: int
    """Index of the image that is being generated, from 0."""
    step: int
    """Finished steps, counted through all images of the job."""
    steps: int
    """Total steps of all images of the job."""
    interrupted: bool = False
    """Whether the job was interrupted; stays set until the next job begins."""
    preview: ImagePart | None = None
    """The unfinished image, when it was requested."""


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """An uploaded file, under the name that the backend gave it."""

    name: str
    """File name."""
    subfolder: str = ""
    """Folder inside the backend's input folder; "" for none."""

    @property
    def path(self) -> str:
        """The path relative to the backend's input folder, `/` between folders."""
        return f"{self.subfolder}/{self.name}" if self.subfolder else self.name


@dataclass(frozen=True, slots=True)
class UploadedInputs:
    """The uploaded files of one request."""

    images: tuple[UploadedFile, ...] = ()
    """The input images, in the order of the request."""
    mask: UploadedFile | None = None
    """The mask, if there is one."""


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that the backend accepted."""

    job: str
    """The backend's id of the job."""
    warnings: tuple[CallWarning, ...] = ()
    """What the backend will not do of the request."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A job in the backend's queue."""

    position: int
    """0 when the job runs, else its position in the queue from 1."""
    job: str
    """The backend's id of the job."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An image file on the backend's disk."""

    filename: str
    """File name."""
    subfolder: str
    """Folder inside the root folder; "" for none."""
    folder: str
    """The backend's name of the root folder: "output" or "temp"."""


@dataclass(frozen=True, slots=True)
class JobOutputs:
    """What a finished job left on the backend's disk."""

    images: tuple[StoredFile, ...]
    """The generated images, in order."""
    raw: Any
    """The backend's own record of the job."""
