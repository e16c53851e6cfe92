"""Safe names for image files."""

from __future__ import annotations

import re

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
}
MAX_STEM_CHARACTERS = 80
# Names that Windows reserves in every folder, whatever the suffix.
_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"COM{n}" for n in range(1, 10)),
    *(f"LPT{n}" for n in range(1, 10)),
}


def safe_stem(name: str, suffix: str = "") -> str:
    """Turn an untrusted name into a file name without folder and suffix.

    The result consists of letters, digits, `-`, `_` and inner dots, at most 80 characters. It is
    "image" when nothing is left.
    """
    stem = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name)[-1])
    stem = stem.removesuffix(suffix).strip("._-")[:MAX_STEM_CHARACTERS] or "image"
    return f"image_{stem}" if stem.split(".")[0].upper() in _RESERVED else stem
