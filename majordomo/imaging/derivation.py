"""Derive several files from one image, which is decoded once.

For example a thumbnail, a version for the web, and the original without its metadata.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from majordomo.concurrency.worker_threads import run_stoppable
from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.imaging.derivative import Derivative
from majordomo.imaging.pipeline import DecodedImage
from majordomo.imaging.recipe_runner import as_recipe, run
from majordomo.media.filenames import SUFFIXES, avoid_reserved, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived file."""

    name: str
    """Name of the derivative."""
    image: ImagePart
    """The image."""
    filename: str
    """A file name that is valid on every system: letters, digits, `-`, `_` and the suffix."""
    sha256: str
    """Hexadecimal SHA-256 digest of the image's bytes."""
    notes: tuple[CallWarning, ...] = ()
    """Side effects of the recipe, see `apply_with_notes`."""

    def to_dict(self) -> dict[str, object]:
        """Return a description of the file without its bytes, for a manifest."""
        image = self.image
        return {
            "name": self.name,
            "file": self.filename,
            "mime": image.mime,
            "width": image.width,
            "height": image.height,
            "bytes": len(image.data),
            "sha256": self.sha256,
            "notes": [note.message for note in self.notes],
        }


def derive(
    image: ImagePart,
    derivatives: Sequence[Derivative],
    *,
    stem: str = "",
    limits: Limits | None = None,
) -> list[Derived]:
    """Create a file for each derivative.

    The image is decoded once, and only if one of them needs pixels. Equal images give equal bytes.

    Args:
        image: The image.
        derivatives: The files to create; their names must differ.
        stem: Prefix of the file names, as in `stem-thumbnail.webp`. Untrusted text is allowed: it
            is turned into a safe name.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        The files, in the order of the derivatives.

    Raises:
        InvalidRequestError: As `apply`, with the name of the derivative in
            `details["derivative"]`. Field `derivatives`: two of them have the same name.
        UnsupportedError: As `apply`.

    Example:
        ```python
        for file in derive(image, STANDARD_SET, stem="fox"):
            Path(file.filename).write_bytes(file.image.data)
        ```
    """
    return _derive(image, derivatives, stem, limits or Limits())


async def derive_async(
    image: ImagePart,
    derivatives: Sequence[Derivative],
    *,
    stem: str = "",
    limits: Limits | None = None,
) -> list[Derived]:
    """Create a file for each derivative in a worker thread: the async version of `derive`.

    The number of worker threads is bounded. Cancellation does not wait for the thread.

    Args:
        image: The image.
        derivatives: The files to create.
        stem: Prefix of the file names.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        The files, in the order of the derivatives.

    Raises:
        InvalidRequestError: See `derive`.
        UnsupportedError: See `derive`.
    """
    return await run_stoppable(
        lambda stopped: _derive(image, derivatives, stem, limits or Limits(), stopped)
    )


def _derive(
    image: ImagePart,
    derivatives: Sequence[Derivative],
    stem: str,
    limits: Limits,
    stopped: threading.Event | None = None,
) -> list[Derived]:
    checked = _check_derivatives(derivatives)
    source = DecodedImage(image, limits)
    files = []
    for derivative in checked:
        try:
            applied = run(source, as_recipe(derivative.full_recipe), stopped)
        except InvalidRequestError as error:
            error.details.setdefault("derivative", derivative.name)
            raise
        name = f"{safe_stem(stem)}-{derivative.name}" if stem else avoid_reserved(derivative.name)
        filename = name.replace(".", "_") + SUFFIXES[applied.image.mime]
        files.append(
            Derived(derivative.name, applied.image, filename, applied.image.sha256, applied.notes)
        )
    return files


def _check_derivatives(derivatives: object) -> tuple[Derivative, ...]:
    checked = as_tuple(derivatives, "derivatives")
    for index, derivative in enumerate(checked):
        if not isinstance(derivative, Derivative):
            raise InvalidRequestError(
                f"derivatives[{index}] must be a Derivative; got {type(derivative).__name__}",
                field=f"derivatives[{index}]",
            )
    # Some file systems do not distinguish upper and lower case.
    names = [derivative.name.lower() for derivative in checked]
    if len(set(names)) != len(names):
        raise InvalidRequestError(
            f"the names of derivatives must differ; got {', '.join(names)}"[:500],
            field="derivatives",
        )
    return checked
