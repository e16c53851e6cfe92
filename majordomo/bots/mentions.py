"""Neutralize mentions so that model output cannot ping users."""

from __future__ import annotations

import re

# The zero-width joiner is invisible to people but ends a mention for programs.
JOINER = "\u200d"
# "@everyone" pings on some platforms even inside a word. Other names ping only where a word begins,
# so mail addresses stay unchanged. "<!here>" is how one platform writes such
# a mention in its API.
_MENTION = re.compile(
    r"@(?=(?:everyone|here|channel|room|all)\b)|(?<![\w.+-])@(?=[\w&!])|<(?=![A-Za-z])",
    re.IGNORECASE,
)


def safe_text(text: str) -> str:
    """Return the text with a zero-width joiner inside everything that may be a mention.

    Mentions are `@everyone`, `@name`, `<@123>`, `<@&123>`, `<!channel>` and the like. The text
    looks the same, and applying the function twice changes nothing. Mail addresses stay unchanged;
    decorators in code do not. Apply it before `split`, which counts characters. Where the platform
    can turn off the mentions of a message, do that as well.

    Args:
        text: The text to send.

    Example:
        ```python
        await channel.send(safe_text(reply.text))
        ```
    """
    return _MENTION.sub(lambda match: match[0] + JOINER, text)
