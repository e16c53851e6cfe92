"""What a JSON text takes in memory once it is read, guessed from above without reading it."""

MAX_BYTES = 60 << 20  # bytes for the text itself, the texts within it, and its values
# Bytes that each takes in Python at its peak, measured: a list, an object with one member, a text (its letters apart), what a comma divides
LIST, OBJECT, TEXT, VALUE = 88, 184, 64, 48
LIGHT = (
    MAX_BYTES // LIST
)  # bytes; no text up to there can be too heavy, "{},{}" being the heaviest with 77 a byte
ESCAPE = 16  # an escaped quote takes time, not memory
KNOWN = 64  # so many different keys, each shorter than this, are counted once: the parser keeps one copy
PIECE = 64 << 10
_TO_C3, _TO_EF = (
    bytes(range(0xC4)),
    bytes(range(0xF0)),
)  # the first bytes of letters up to U+00FF, up to U+FFFF, and those that follow


def is_heavy(raw: bytes, most: int = MAX_BYTES) -> bool:
    """Whether reading `raw` would take much more than `most` bytes: "[],[],[]" takes thirty times its length.

    Nothing is copied but keys; brackets and commas within texts do not count. `raw` is there already, and its texts will be once more.
    An image in base64 may be larger than all that: half of `most` is left for values.
    """
    if len(raw) * LIST <= most:
        return False
    most = max(most - 2 * len(raw), most // 2)
    narrow = raw.isascii() and b"\\u" not in raw
    wide = 0 if narrow else 5 * len(raw)
    if (
        LIST * raw.count(b"[")
        + OBJECT * raw.count(b"{")
        + TEXT * raw.count(b'"') // 2
        + VALUE * raw.count(b",")
        + wide
        <= most
    ):
        return False
    keys: set[bytes] = set()
    total = at = 0
    while total <= most:
        quote = raw.find(b'"', at)
        end = quote if quote >= 0 else len(raw)
        total += (
            LIST * raw.count(b"[", at, end)
            + OBJECT * raw.count(b"{", at, end)
            + VALUE * raw.count(b",", at, end)
        )
        if quote < 0:
            break
        begin = at = quote + 1
        while total <= most:
            end = raw.find(b'"', at)
            if end < 0:
                return False  # no JSON: reading it will tell
            at = end + 1
            before = end
            while raw[before - 1] == 92:  # a backslash
                before -= 1
            if (end - before) % 2 == 0:
                break
            total += ESCAPE
        key = raw[begin:end] if raw[at : at + 1] == b":" and end - begin < KNOWN else b""
        if not key or key not in keys:
            total += TEXT + (0 if narrow else _widening(raw, begin, end))
            if key and len(keys) < KNOWN:
                keys.add(key)
    return total > most


def is_heavy_text(text: str) -> bool:
    """The same for a text that a model wrote."""
    return len(text) > LIGHT // 4 and is_heavy(text.encode("utf-8", "surrogatepass"))


def _widening(raw: bytes, begin: int, end: int) -> int:
    """Bytes that the text takes beyond its length: one letter beyond U+FFFF makes all of them take four bytes each, one beyond U+00FF
    two, and narrower copies are there at the same time. For a short one the most it can be: there may be hundreds of thousands."""
    if end - begin < KNOWN:
        return 5 * (end - begin)
    wide = False
    for at in range(begin, end, PIECE):
        piece = raw[at : min(at + PIECE + 5, end)]  # an escape may be cut in two
        if piece.isascii() and b"\\u" not in piece:
            continue
        if piece.translate(None, _TO_EF) or b"\\ud" in piece or b"\\uD" in piece:
            return 5 * (end - begin)
        wide = (
            wide
            or bool(piece.translate(None, _TO_C3))
            or piece.count(b"\\u") > piece.count(b"\\u00")
        )
    return 3 * (end - begin) if wide else 0
