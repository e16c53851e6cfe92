"""The rooms of the house: imports point down, and some things are known to one room only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "majordomo"
FLOORS = [
    {
        *("errors", "media", "env", "progress", "settings", "options", "catalog", "secret", "words", "parameters", "counting"),
        *("containers", "exif", "forks", "wake", "weight"),
    },
    {"llm", "imagegen", "wire"},
    {"observing", "prices", "ledger"},
    {"dialects", "framing"},
    {"transport", "imaging"},
    {"flows", "embedded"},
    {"providers"},
    {"routing"},
    {"bots", "studio"},
    {"cli", "testing"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# On one floor, who may see whom. Everything else on a floor is a stranger.
NEIGHBOURS = {
    ("dialects", "framing"),
    ("prices", "observing"),
    ("ledger", "observing"),
    ("ledger", "prices"),
    *((a, b) for a in FLOORS[0] for b in FLOORS[0]),
}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module or name with its line, imports inside functions included; `from majordomo import x` is majordomo.x."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            if node.module == "majordomo":
                yield from ((f"majordomo.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        here = room_of(path)
        if here == "__init__":
            continue
        assert here in FLOOR, f"{here} stands on no floor"
        for name, line in imports(path):
            if not name.startswith("majordomo."):
                continue
            there = name.split(".")[1]
            assert there in FLOOR, f"{path}:{line} imports {name}, which stands on no floor"
            if there != here and not (FLOOR[there] < FLOOR[here] or (here, there) in NEIGHBOURS):
                wrong.append(f"{path.name}:{line} in {here} imports {name}")
    assert wrong == []


ONLY = {
    "httpx": {"transport"},
    "httpcore": {"transport"},
    "httpcore2": {"transport"},
    "h11": {"transport"},
    "wsproto": {"transport"},
    "PIL": {"imaging", "media"},
    "typer": {"cli"},
    "rich": {"cli"},
    "opentelemetry": {"observing"},
    "genai_prices": {"prices"},
}


def test_some_things_are_known_to_one_room() -> None:
    wrong = []
    for path in FILES:
        for name, line in imports(path):
            rooms = ONLY.get(name.partition(".")[0])
            if rooms is not None and room_of(path) not in rooms:
                wrong.append(f"{path}:{line} imports {name}")
    assert wrong == []


def test_only_env_reads_the_environment() -> None:
    wrong = []
    for path in FILES:
        for node in nodes(path):
            of_os = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            if of_os and node.attr in ("environ", "getenv", "environb") and path.name != "env.py":
                wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_a_provider_does_not_import_another() -> None:
    for path in (ROOT / "providers").glob("*.py"):
        for name, line in imports(path):
            if name.startswith("majordomo.providers."):
                assert name == "majordomo.providers.base", f"{path}:{line}"
