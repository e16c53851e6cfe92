"""One vocabulary: words that the project once used in a meaning of its own do not come back.

`docs/glossary.md` defines the terms that are particular to this library; everything else uses the
terms of httpx, anyio, OpenAI, Hugging Face and Python.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A word as one part of an identifier, and what to write instead.
NAMES = {
    "door": "codec",
    "tell|told|telling|hear|heard|hearing": "emit, on_event or an event listener",
    "caller|callers": "user_id, or BackendClient",
    "picture|pictures|pictured": "image",
    "painter|painting|painted": "image_model, generate",
    "colou?r(?<=our)|colours": "color",
    "grey": "gray",
    "place|places": "slot, position or max_concurrency",
    "most": "max_<thing>",
    "wire": "request, socket stream or transport",
    "room|rooms": "transport or package",
    "story|stories": "run",
    "clerk": "rule-based chat",
    "reask": "output_retries",
    "wishes|wish": "overrides",
    "served": "provider_instance",
    "tie|tied|beside": "loop_lifetime, companion",
    "stranger|strangers|somebody|nobody|whoever|everybody": "user, server, client",
    "asking": "request",
    "mend|mended": "fix, hint",
}
# Whole names, with or without an underscore in front.
OLD_NAMES = re.compile(
    "_?(?:Tries|Budget|Tried|Holder|Ticket|Pace|Permit|Meet|Caller|Telling|Watching|Watched|Sanitise|"
    "Optimise|served_by|longest_wait|held|shown|said|made|whole|took|owed|settle|began|asked)"
)
# Functions and methods of the library; with an underscore in front they are as unclear.
OLD_FUNCTIONS = re.compile(
    "_?(?:fit|forms|most|named|ask|about|over|enter|left|hold|gate|portions|owner|story|began|"
    "attempted|told|finished|failed|cancelled|work)"
)
ALLOWED_FUNCTIONS = {
    "majordomo/imaging/byte_budget.py: fit",  # makes an image fit into a number of bytes
    "majordomo/imaging/files.py: fit",
    "majordomo/offline/image_model.py: finished",  # whether the run is over
    "majordomo/routing/health.py: failed",  # records a failed attempt
}
# fmt: off
OLD_MODULES = {
    "words", "weight", "wake", "counting", "catalog", "parameters", "containers", "forks", "tie",
    "beside", "background", "sight", "feed", "closing", "call", "loading", "walk", "condition",
    "asking", "failures", "assembly", "keywords", "document", "diagnosis", "advice", "names",
    "settle", "start", "trouble", "drafts", "painting", "job_engine", "work", "applying",
    "fitting", "inscribing", "lettering", "look", "sheet", "shrink", "steps", "front", "carrier",
    "foreign", "splice", "whole", "clerk", "filling", "taken", "reckoning", "turns", "answer",
    "bodies", "asked", "folding", "hiding", "nearest", "ports",
}
# fmt: on
# Phrases in docstrings, comments, messages and pages.
PHRASES = {
    r"whoever|whom|whence|somebody|nobody|everybody": "say who: the server, the user, the program",
    r"strangers?": "untrusted input, the user, the server",
    r"(?:is|are|was|were|be|been) told": "say who reports or emits what",
    r"(?<!front )\bdoors?": "codec",
    r"pictures?": "image",
    r"painters?": "image model",
    r"colours?|colouring|coloured": "color",
    r"grey(?:scale)?": "gray",
    r"mends?|mended": "fix",
    r"(?:the|this|one) rooms?": "package, transport",
    r"stands? (?:in|at|above|beside|on|behind|before|for)": "is in, is at",
    r"flesh": "real",
    r"carriage": "transport",
    r"The same[,.:]": "a summary of its own",
    r"clerk": "rule-based chat",
    r"waiting line|in the line": "queue",
}
NAME_RULES = [
    (re.compile(rf"(?:^|_)(?:{words})(?:_|$)", re.IGNORECASE), use) for words, use in NAMES.items()
]
PHRASE_RULES = [
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), use) for words, use in PHRASES.items()
]
# Files in which a word has its ordinary meaning: words of users, of vendors' APIs, or of English.
ALLOWED = {
    "CHANGELOG.md": ".",  # lists old names with their new ones
    "CONTRIBUTING.md": "picture",  # examples of words to avoid
    "docs/adr/0023-layers-and-names.md": "door|picture",  # examples of words to avoid
    "majordomo/framing/base64.py": "^tell$",  # of io.BytesIO
    "majordomo/offline/renderer/palette.py": "grey",  # prompts of users
    "majordomo/offline/rule_chat.py": "colours?",  # questions of users
    "tests/observability/": "^places$",  # decimal places
    "tests/studio/test_classifier.py": "doors at",  # a request of a user
}
SKIPPED = ("tests/fuzz/corpus", "tests/real/models", "tests/test_vocabulary.py")
# Python 3.12 and later split f-strings into tokens.
TEXT_TOKENS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}


def sources() -> list[Path]:
    folders = ("majordomo", "tests", "examples", "benchmarks", "fuzz", "scripts")
    modules = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    programs = [path for path in sorted((ROOT / "scripts").iterdir()) if is_python_program(path)]
    # The environments of the benchmark are in a folder whose name begins with a dot.
    return [
        path
        for path in modules + programs
        if not relative(path).startswith(SKIPPED) and "/." not in relative(path)
    ]


def is_python_program(path: Path) -> bool:
    return not path.suffix and path.is_file() and "python" in path.read_text().partition("\n")[0]


def pages() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"]
    return sorted(found)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def allowed(file: str) -> re.Pattern[str] | None:
    patterns = [words for start, words in ALLOWED.items() if file.startswith(start)]
    return re.compile("|".join(patterns), re.IGNORECASE) if patterns else None


def is_allowed(file: str, text: str) -> bool:
    pattern = allowed(file)
    return pattern is not None and pattern.search(text) is not None


def private_words(path: Path) -> Iterator[str]:
    file = relative(path)
    text = path.read_text()
    if path.suffix == ".md":
        for number, line in enumerate(text.splitlines(), 1):
            yield from in_text(file, number, line)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        number = token.start[0]
        if token.type == tokenize.NAME:
            if OLD_NAMES.fullmatch(token.string):
                yield f"{file}:{number}: {token.string} is an old name"
            for pattern, use in NAME_RULES:
                if pattern.search(token.string) and not is_allowed(file, token.string):
                    yield f"{file}:{number}: {token.string}: use {use}"
        elif token.type in TEXT_TOKENS:
            for offset, line in enumerate(token.string.splitlines()):
                yield from in_text(file, number + offset, line)


def in_text(file: str, number: int, line: str) -> Iterator[str]:
    for pattern, use in PHRASE_RULES:
        for match in pattern.finditer(line):
            if not is_allowed(file, line):
                yield f"{file}:{number}: {match.group()}: use {use}"


@pytest.mark.parametrize("path", [*sources(), *pages()], ids=relative)
def test_no_private_words(path: Path) -> None:
    assert list(private_words(path)) == []


def test_no_module_has_an_old_name() -> None:
    assert [relative(path) for path in sources() if path.stem in OLD_MODULES] == []


def test_no_function_has_an_old_name() -> None:
    functions = {
        f"{relative(path)}: {node.name}"
        for path in sources()
        if relative(path).startswith("majordomo/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and OLD_FUNCTIONS.fullmatch(node.name)
    }
    assert functions == ALLOWED_FUNCTIONS


def test_a_private_word_is_found() -> None:
    assert [use for pattern, use in NAME_RULES if pattern.search("_image_door")] == ["codec"]
    assert list(in_text("a.py", 1, "# whoever closes it")) != []
