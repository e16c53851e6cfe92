"""Several files of one image, decoded once: a thumbnail, one for the web, the original without its metadata."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from majordomo.concurrency.worker_threads import run_stoppable
from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.imaging.derivative import Derivative
from majordomo.imaging.pipeline import DecodedImage
from majordomo.imaging.recipe_runner import as_recipe, run
from majordomo.media.filenames import SUFFIXES, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple


@dataclass(frozen=True, slots=True)
class Derived:
    """One file of the set. `filename` is safe: letters, digits, `-`, `_` and the suffix of its kind."""

    name: str
    image: ImagePart
    filename: str
    sha256: str
    notes: tuple[CallWarning, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """For a manifest: what there is to know about the file without its bytes."""
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
    """A file for each derivative, in order; the image is decoded once, and only when one of them needs pixels. The same image gives the
    same bytes. `stem`, which a stranger may have chosen, is made safe and comes before the names: `stem-thumbnail.webp`.

    Raises as `apply` does, with the derivative's name in `details["derivative"]`; InvalidRequestError (field `derivatives`) for two of
    one name.
    """
    return _derived(image, derivatives, stem, limits or Limits())


async def derive_async(
    image: ImagePart,
    derivatives: Sequence[Derivative],
    *,
    stem: str = "",
    limits: Limits | None = None,
) -> list[Derived]:
    """As `derive`, in one of a bounded number of worker threads; a cancellation does not wait."""
    return await run_stoppable(
        lambda stopped: _derived(image, derivatives, stem, limits or Limits(), stopped)
    )


def _derived(
    image: ImagePart,
    derivatives: Sequence[Derivative],
    stem: str,
    limits: Limits,
    stopped: threading.Event | None = None,
) -> list[Derived]:
    wanted = _checked(derivatives)
    source = DecodedImage(image, limits)
    made = []
    for derivative in wanted:
        try:
            applied = run(source, as_recipe(derivative.whole), stopped)
        except InvalidRequestError as error:
            error.details.setdefault("derivative", derivative.name)
            raise
        name = f"{safe_stem(stem)}-{derivative.name}" if stem else derivative.name
        filename = re.sub(r"[^\w-]", "_", name) + SUFFIXES[applied.image.mime]
        made.append(
            Derived(derivative.name, applied.image, filename, applied.image.sha256, applied.notes)
        )
    return made


def _checked(derivatives: object) -> tuple[Derivative, ...]:
    wanted = as_tuple(derivatives, "derivatives")
    for index, derivative in enumerate(wanted):
        if not isinstance(derivative, Derivative):
            raise InvalidRequestError(
                f"a derivative is a Derivative, not {type(derivative).__name__}",
                field=f"derivatives[{index}]",
            )
    names = [
        derivative.name.lower() for derivative in wanted
    ]  # some file systems see no difference
    if len(set(names)) != len(names):
        raise InvalidRequestError("two derivatives have the same name", field="derivatives")
    return wanted
