"""What people see as one character: where a text may be cut, after the rules of UAX #29 that chats meet.

Combining marks, variation selectors, skin tones, joined emoji, flags, Korean syllables, CR LF. The rarer rules (prepended marks, Indic
conjuncts) would need tables the standard library does not have.
"""

from __future__ import annotations

import unicodedata

_JOINER = "\u200d"


def may_cut(text: str, at: int) -> bool:
    """Whether the characters before and after position `at` are two for a reader. Both ends of the text may be cut."""
    if at <= 0 or at >= len(text):
        return True
    before, after = text[at - 1], text[at]
    if after < "\u0300" and before < "\u0300":  # most text: nothing combines below, but CR LF
        return not (before == "\r" and after == "\n")
    if before in "\r\n" or after in "\r\n":
        return True  # whatever combines, it does not combine with the end of a line (GB4, GB5)
    if before == _JOINER or _extends(after) or _half(before, after) or _hangul(before, after):
        return False
    return not (_flag(before) and _flag(after) and _odd_flags(text, at))


def _extends(character: str) -> bool:
    return (
        character in "\u200c\u200d"
        or unicodedata.category(character) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= character <= "\U000e007f"  # the letters of a region's flag
    )


def _half(before: str, after: str) -> bool:
    """Two surrogates that should have been one character; such text comes from JSON read by halves."""
    return "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff"


def _hangul(before: str, after: str) -> bool:
    """GB6 to GB8: leading consonants, vowels and trailing consonants make one syllable."""
    if (
        not "\u1100" <= after <= "\u11ff"
    ):  # only single letters join what stands before; a whole syllable joins a leading consonant
        return "\u1100" <= before <= "\u115f" and "\uac00" <= after <= "\ud7a3"
    if "\u1100" <= before <= "\u115f":
        return after <= "\u11a7"
    open_syllable = "\uac00" <= before <= "\ud7a3" and (ord(before) - 0xAC00) % 28 == 0
    if "\u1160" <= before <= "\u11a7" or open_syllable:
        return after >= "\u1160"
    return ("\u11a8" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3") and after >= "\u11a8"


def _flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _odd_flags(text: str, at: int) -> bool:
    """Whether an odd number of flag letters ends before `at`: then the next one completes a flag (GB12)."""
    start = at
    while start and _flag(text[start - 1]):
        start -= 1
    return (at - start) % 2 == 1
