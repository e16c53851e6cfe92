"""Image processing: recipes, derivatives, contact sheets, comparisons and masks.

Importing this package does not import Pillow: every name is imported when it is first used. Steps
and recipes are values and never need Pillow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The module of each public name. No module may have the name of a public function: importing the
# module would hide the function.
_MODULES = {
    "majordomo.imaging.operations": (
        "Anchor Convert Crop Fit Flatten ImageFormat Optimize Orient Recipe Resize Sanitize Step"
        " Text Watermark"
    ),
    "majordomo.imaging.recipe_runner": (
        "Applied apply apply_async apply_async_with_notes apply_with_notes"
    ),
    "majordomo.imaging.derivative": "Derivative STANDARD_SET",
    "majordomo.imaging.derivation": "Derived derive derive_async",
    "majordomo.imaging.sheets": "before_after contact_sheet",
    "majordomo.imaging.comparison": "Comparison compare dhash distance phash",
    "majordomo.imaging.masks": ("mask_feathered mask_from_alpha mask_inverted mask_rectangle"),
    "majordomo.imaging.embed_metadata": "embed_parameters",
    "majordomo.imaging.byte_budget": "fit",
    "majordomo.concurrency.worker_threads": "in_thread",
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "STANDARD_SET",
    "Anchor",
    "Applied",
    "Comparison",
    "Convert",
    "Crop",
    "Derivative",
    "Derived",
    "Fit",
    "Flatten",
    "ImageFormat",
    "Optimize",
    "Orient",
    "Recipe",
    "Resize",
    "Sanitize",
    "Step",
    "Text",
    "Watermark",
    "apply",
    "apply_async",
    "apply_async_with_notes",
    "apply_with_notes",
    "before_after",
    "compare",
    "contact_sheet",
    "derive",
    "derive_async",
    "dhash",
    "distance",
    "embed_parameters",
    "fit",
    "in_thread",
    "mask_feathered",
    "mask_from_alpha",
    "mask_inverted",
    "mask_rectangle",
    "phash",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from majordomo.concurrency.worker_threads import in_thread
    from majordomo.imaging.byte_budget import fit
    from majordomo.imaging.comparison import Comparison, compare, dhash, distance, phash
    from majordomo.imaging.derivation import Derived, derive, derive_async
    from majordomo.imaging.derivative import STANDARD_SET, Derivative
    from majordomo.imaging.embed_metadata import embed_parameters
    from majordomo.imaging.masks import (
        mask_feathered,
        mask_from_alpha,
        mask_inverted,
        mask_rectangle,
    )
    from majordomo.imaging.operations import (
        Anchor,
        Convert,
        Crop,
        Fit,
        Flatten,
        ImageFormat,
        Optimize,
        Orient,
        Recipe,
        Resize,
        Sanitize,
        Step,
        Text,
        Watermark,
    )
    from majordomo.imaging.recipe_runner import (
        Applied,
        apply,
        apply_async,
        apply_async_with_notes,
        apply_with_notes,
    )
    from majordomo.imaging.sheets import before_after, contact_sheet
else:
    # Type checkers do not see this function, so that they reject a misspelled name.
    def __getattr__(name: str) -> Any:
        if name not in _NAMES:
            raise AttributeError(f"module 'majordomo.imaging' has no attribute {name!r}")
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
