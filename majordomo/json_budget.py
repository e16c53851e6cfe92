"""Upper estimate of the memory that parsing a JSON text takes, made without parsing it."""

# Budget in bytes for the text itself, the strings in it, and its values.
MAX_BYTES = 60 << 20
# Bytes that each item takes in Python at its peak, measured: a list, an object with one member, a
# string (without its characters), and a value that a comma separates.
LIST_BYTES, OBJECT_BYTES, STRING_BYTES, VALUE_BYTES = 88, 184, 64, 48
# No text of at most so many bytes can exceed the budget: the heaviest one, "{},{}", takes 77 bytes
# for each byte of text.
MAX_UNCHECKED_BYTES = MAX_BYTES // LIST_BYTES
# An escaped quote takes time, not memory.
ESCAPE_COST = 16
# The parser keeps one copy of a repeated key. Up to so many different keys, each shorter than so
# many bytes, are therefore counted once.
MAX_KNOWN_KEYS = MAX_KEY_BYTES = 64
SCAN_BYTES = 64 << 10
# The bytes of UTF-8 sequences for characters up to U+00FF and up to U+FFFF: the first bytes and all
# continuation bytes.
_UP_TO_U00FF, _UP_TO_UFFFF = bytes(range(0xC4)), bytes(range(0xF0))


def exceeds_budget(raw: bytes, max_bytes: int = MAX_BYTES) -> bool:
    """Return whether parsing `raw` would take much more than `max_bytes` bytes of memory.

    "[],[],[]" takes thirty times its length. Nothing is copied but keys; brackets and commas in
    strings do not count. `raw` is in memory already, and its strings will be there once more. An
    image in base64 may be larger than the budget, so half of `max_bytes` is always left for values.
    """
    if len(raw) * LIST_BYTES <= max_bytes:
        return False
    max_bytes = max(max_bytes - 2 * len(raw), max_bytes // 2)
    narrow = raw.isascii() and b"\\u" not in raw
    widening = 0 if narrow else 5 * len(raw)
    if (
        LIST_BYTES * raw.count(b"[")
        + OBJECT_BYTES * raw.count(b"{")
        + STRING_BYTES * raw.count(b'"') // 2
        + VALUE_BYTES * raw.count(b",")
        + widening
        <= max_bytes
    ):
        return False
    keys: set[bytes] = set()
    total = at = 0
    while total <= max_bytes:
        quote = raw.find(b'"', at)
        end = quote if quote >= 0 else len(raw)
        total += (
            LIST_BYTES * raw.count(b"[", at, end)
            + OBJECT_BYTES * raw.count(b"{", at, end)
            + VALUE_BYTES * raw.count(b",", at, end)
        )
        if quote < 0:
            break
        begin = at = quote + 1
        while total <= max_bytes:
            end = raw.find(b'"', at)
            if end < 0:
                # The text is not valid JSON. The parser will report that.
                return False
            at = end + 1
            before = end
            # 92 is the backslash.
            while raw[before - 1] == 92:
                before -= 1
            if (end - before) % 2 == 0:
                break
            total += ESCAPE_COST
        key = raw[begin:end] if raw[at : at + 1] == b":" and end - begin < MAX_KEY_BYTES else b""
        if not key or key not in keys:
            total += STRING_BYTES + (0 if narrow else _widening(raw, begin, end))
            if key and len(keys) < MAX_KNOWN_KEYS:
                keys.add(key)
    return total > max_bytes


def text_exceeds_budget(text: str) -> bool:
    """Return whether parsing a JSON text that a model wrote would exceed the budget."""
    return len(text) > MAX_UNCHECKED_BYTES // 4 and exceeds_budget(
        text.encode("utf-8", "surrogatepass")
    )


def _widening(raw: bytes, begin: int, end: int) -> int:
    """Return the bytes that a string takes beyond its length.

    One character beyond U+FFFF makes every character of a string take four bytes, one beyond U+00FF
    two, and narrower copies exist at the same time. For a short string the result is the maximum,
    because there may be hundreds of thousands of them.
    """
    if end - begin < MAX_KEY_BYTES:
        return 5 * (end - begin)
    wide = False
    for at in range(begin, end, SCAN_BYTES):
        # Overlap by 5 bytes, because an escape may be cut in two.
        section = raw[at : min(at + SCAN_BYTES + 5, end)]
        if section.isascii() and b"\\u" not in section:
            continue
        if section.translate(None, _UP_TO_UFFFF) or b"\\ud" in section or b"\\uD" in section:
            return 5 * (end - begin)
        wide = (
            wide
            or bool(section.translate(None, _UP_TO_U00FF))
            or section.count(b"\\u") > section.count(b"\\u00")
        )
    return 3 * (end - begin) if wide else 0
