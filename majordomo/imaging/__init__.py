"""Pixels: recipes for pictures, and what is drawn and seen here. The one room that imports Pillow.

Importing this module loads no Pillow: every name is loaded when it is first used. Steps and recipes are values and never need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Where each public name lives. No module here has the name of a function, which importing it would hide.
_HOME = {
    "steps": "Anchor Convert Crop Fit Flatten Kind Optimise Orient Recipe Resize Sanitise Step Text Watermark",
    "applying": "Applied apply apply_async apply_async_with_notes apply_with_notes",
    "derivative": "Derivative STANDARD_SET",
    "deriving": "Derived derive derive_async",
    "sheet": "before_after contact_sheet",
    "comparing": "Comparison compare dhash distance phash",
    "masks": "mask_feathered mask_from_alpha mask_inverted mask_rectangle",
    "inscribing": "inscribe",
    "fitting": "fit",
    "threads": "in_thread",
}
_NAMES = {name: home for home, names in _HOME.items() for name in names.split()}

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
    "Kind",
    "Optimise",
    "Orient",
    "Recipe",
    "Resize",
    "Sanitise",
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
    "fit",
    "in_thread",
    "inscribe",
    "mask_feathered",
    "mask_from_alpha",
    "mask_inverted",
    "mask_rectangle",
    "phash",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'majordomo.imaging' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"majordomo.imaging.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from majordomo.imaging.applying import Applied, apply, apply_async, apply_async_with_notes, apply_with_notes
    from majordomo.imaging.comparing import Comparison, compare, dhash, distance, phash
    from majordomo.imaging.derivative import STANDARD_SET, Derivative
    from majordomo.imaging.deriving import Derived, derive, derive_async
    from majordomo.imaging.fitting import fit
    from majordomo.imaging.inscribing import inscribe
    from majordomo.imaging.masks import mask_feathered, mask_from_alpha, mask_inverted, mask_rectangle
    from majordomo.imaging.sheet import before_after, contact_sheet
    from majordomo.imaging.steps import (
        Anchor,
        Convert,
        Crop,
        Fit,
        Flatten,
        Kind,
        Optimise,
        Orient,
        Recipe,
        Resize,
        Sanitise,
        Step,
        Text,
        Watermark,
    )
    from majordomo.imaging.threads import in_thread
