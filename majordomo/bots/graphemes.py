"""Grapheme clusters: where a text may be cut, by the rules of UAX #29 that matter in chats.

Covered are combining marks, variation selectors, skin tones, joined emoji, flags, Korean syllables
and CR LF. The rarer rules (prepended marks, Indic conjuncts) need tables that the standard library
does not have.
"""

from __future__ import annotations

import unicodedata

_JOINER = "\u200d"


def may_cut(text: str, at: int) -> bool:
    """Return whether a reader sees two characters before and after position `at`.

    Both ends of the text may be cut.
    """
    if at <= 0 or at >= len(text):
        return True
    before, after = text[at - 1], text[at]
    # Fast path for most text: below U+0300 nothing combines except CR LF.
    if after < "\u0300" and before < "\u0300":
        return not (before == "\r" and after == "\n")
    # Nothing combines with the end of a line (GB4, GB5).
    if before in "\r\n" or after in "\r\n":
        return True
    if (
        before == _JOINER
        or _extends(after)
        or _is_surrogate_pair(before, after)
        or _joins_hangul(before, after)
    ):
        return False
    return not (
        _is_flag_letter(before) and _is_flag_letter(after) and _has_open_flag_letter(text, at)
    )


def _extends(character: str) -> bool:
    """Return whether the character extends the one before it."""
    return (
        character in "\u200c\u200d"
        or unicodedata.category(character) in ("Mn", "Me", "Mc")
        # Skin tones.
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        # The tag letters of a region's flag.
        or "\U000e0020" <= character <= "\U000e007f"
    )


def _is_surrogate_pair(before: str, after: str) -> bool:
    """Return whether these are two surrogates of one character, as badly decoded JSON has them."""
    return "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff"


def _joins_hangul(before: str, after: str) -> bool:
    """Return whether two Korean letters belong to one syllable.

    GB6 to GB8: leading consonants, vowels and trailing consonants form one syllable.
    """
    # Only single letters join the character before them. A whole syllable joins a leading
    # consonant.
    if not "\u1100" <= after <= "\u11ff":
        return "\u1100" <= before <= "\u115f" and "\uac00" <= after <= "\ud7a3"
    if "\u1100" <= before <= "\u115f":
        return after <= "\u11a7"
    open_syllable = "\uac00" <= before <= "\ud7a3" and (ord(before) - 0xAC00) % 28 == 0
    if "\u1160" <= before <= "\u11a7" or open_syllable:
        return after >= "\u1160"
    return ("\u11a8" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3") and after >= "\u11a8"


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _has_open_flag_letter(text: str, at: int) -> bool:
    """Return whether an odd number of flag letters ends before `at`.

    The next flag letter then completes a flag (GB12).
    """
    start = at
    while start and _is_flag_letter(text[start - 1]):
        start -= 1
    return (at - start) % 2 == 1
