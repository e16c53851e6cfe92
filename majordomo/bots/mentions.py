"""A model's words may not ring everybody's telephone."""

from __future__ import annotations

import re

JOINER = "\u200d"  # zero width joiner: seen by programs, not by people
# "@everyone" rings on some platforms even inside a word; other names only where a word begins, so that addresses stay as they are.
# "<!here>" and its kind are how one platform spells it on the wire.
_MENTION = re.compile(
    r"@(?=(?:everyone|here|channel|room|all)\b)|(?<![\w.+-])@(?=[\w&!])|<(?=![A-Za-z])",
    re.IGNORECASE,
)


def safe_text(text: str) -> str:
    """The text with a zero width joiner inside everything a chat platform might take for a mention: `@everyone`, `@name`, `<@123>`,
    `<@&123>`, `<!channel>`.

    It looks the same, and doing it twice changes nothing. Mail addresses stay as they are; decorators in code do not. Do it before `split`,
    which counts characters. Where the platform can switch mentions off for a message, do that as well.
    """
    return _MENTION.sub(lambda found: found[0] + JOINER, text)
