"""File names that are valid on every system.

The rules of Windows are the strictest, so they apply on every system: a folder of images can be
copied to Windows, and the same names are made everywhere. The rules are those of "Naming Files,
Paths, and Namespaces" (https://learn.microsoft.com/windows/win32/fileio/naming-a-file).
"""

from __future__ import annotations

import re
import unicodedata

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
}
MAX_STEM_CHARACTERS = 80
# Leaves space for a number, the name of a derivative (64) and a suffix in the 255 bytes of a name.
MAX_STEM_BYTES = 160
# The limit is 255 bytes on Linux, and 255 UTF-16 code units on Windows and macOS, which are never
# more than the bytes.
MAX_NAME_BYTES = 255
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
# Devices on Windows, whatever the suffix. It reads superscript digits as digits.
_RESERVED = {
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"),
}
# Longer text is cut first, because normalizing takes quadratic time for hostile text.
_MAX_INPUT_CHARACTERS = 1000


def safe_stem(name: str, suffix: str = "") -> str:
    """Turn an untrusted name into a file name without folder and suffix, valid on every system.

    The result is normalized to NFC and consists of letters with their marks, digits, `-`, `_` and
    inner dots, at most 80 characters and 160 bytes. It is "image" when nothing is left.
    """
    stem = replace_symbols(re.split(r"[/\\]", name)[-1]).removesuffix(suffix)
    return avoid_reserved(_cut(stem) or "image")


def replace_symbols(text: str) -> str:
    """Replace each run of characters other than letters, digits, `.`, `_` and `-` by one `_`.

    The text is normalized to NFC. A mark is kept where it follows its letter.
    """
    kept: list[str] = []
    after_letter = False
    for character in unicodedata.normalize("NFC", text[:_MAX_INPUT_CHARACTERS]):
        kind = unicodedata.category(character)[0]
        after_letter = kind in "LN" or (kind == "M" and after_letter)
        kept.append(character if after_letter or character in "._-" else " ")
    return re.sub(" +", "_", "".join(kept))


def _cut(stem: str) -> str:
    start = stem.lstrip("._-")[:MAX_STEM_CHARACTERS].encode()[:MAX_STEM_BYTES]
    return start.decode(errors="ignore").rstrip("._-")


def avoid_reserved(stem: str) -> str:
    """Return a stem, with a prefix if Windows reserves it for a device."""
    return _cut(f"image_{stem}") if is_reserved(stem) else stem


def is_reserved(name: str) -> bool:
    """Return whether Windows reserves a name, with any suffix, for a device."""
    return name.partition(".")[0].rstrip(" ").upper() in _RESERVED


def name_problem(name: str) -> str:
    """Return why a file name is not valid on every system; "" when it is valid."""
    if found := _FORBIDDEN.search(name):
        return f"it contains {found[0]!r}"
    if name.endswith((".", " ")):
        return "it ends with a dot or a space"
    if is_reserved(name):
        return f"Windows reserves {name.partition('.')[0]} for a device"
    if (length := len(name.encode(errors="surrogatepass"))) > MAX_NAME_BYTES:
        return f"it has {length} bytes, and the limit is {MAX_NAME_BYTES}"
    return "" if name else "it is empty"


def comparison_key(name: str) -> str:
    """Return a key that is equal for names that some file system does not distinguish.

    Windows and macOS ignore case, and macOS also the normalization of Unicode.
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).upper().casefold())
