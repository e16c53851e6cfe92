"""The layers of the library.

Imports point down, no package has an import cycle, and some libraries are imported in one place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "majordomo"
FLOORS = [
    {
        *("errors", "env", "settings", "options", "backend_status", "redaction", "validation"),
        *("json_budget", "usage", "requests"),
    },
    {"media", "concurrency"},
    {"llm", "imagegen", "transport_types"},
    {"dialects", "framing", "observability"},
    {"transport", "imaging", "queueing"},
    {"models"},
    {"providers", "offline"},
    {"routing"},
    {"studio", "bots"},
    {"cli", "testing"},
]
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
# Packages of one floor that may see each other. All other packages of a floor are independent.
NEIGHBORS = {
    ("llm", "transport_types"),
    ("dialects", "framing"),
    ("providers", "offline"),
    ("offline", "providers"),
    *((a, b) for a in FLOORS[0] for b in FLOORS[0]),
}
MAX_TOP_LEVEL_MODULES = 10
FILES = sorted(ROOT.rglob("*.py"))


def package_of(path: Path) -> str:
    """Return the first part of the path below the library: a package, or a module at the top."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def type_checking_nodes(path: Path) -> set[ast.AST]:
    """Return the nodes that only a type checker sees."""
    blocks = (
        node
        for node in nodes(path)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Yield every imported module or name, also of imports inside functions.

    `from majordomo import x` is `majordomo.x`.
    """
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module == "majordomo":
                yield from ((name, node) for name in names)
            else:
                yield from ((name if name in MODULES else node.module, node) for name in names)


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        here = package_of(path)
        if here == "__init__":
            continue
        assert here in FLOOR, f"{here} is on no floor"
        for name, node in imports(path):
            if not name.startswith("majordomo."):
                continue
            there = name.split(".")[1]
            assert there in FLOOR, f"{path} imports {name}, which is on no floor"
            if there != here and not (FLOOR[there] < FLOOR[here] or (here, there) in NEIGHBORS):
                wrong.append(
                    f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {name}"
                )
    assert wrong == []


def test_packages_have_no_import_cycles() -> None:
    graph = {}
    for module, path in MODULES.items():
        unseen = type_checking_nodes(path)
        graph[module] = {
            name
            for name, node in imports(path)
            if node not in unseen and name in MODULES and name != module
        }
    del graph["majordomo"]  # it loads its exports when they are first used
    assert cycles(graph) == set()


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all modules that `start` imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that import each other."""
    below = {module: reachable(graph, module) for module in graph}
    circular = {module for module in graph if module in below[module]}
    return {
        frozenset(other for other in circular if other in below[module] and module in below[other])
        for module in circular
    }


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {frozenset({"b", "c"})}


def test_top_level_has_few_modules() -> None:
    modules = [path.name for path in ROOT.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_TOP_LEVEL_MODULES, modules


ONLY = {
    "httpx": {"transport"},
    "h11": {"transport"},
    "httptools": {"transport"},
    "certifi": {"transport"},
    "wsproto": {"transport"},
    "PIL": {"imaging", "media", "offline"},  # the offline renderer draws with Pillow
    "typer": {"cli"},
    "rich": {"cli"},
    "opentelemetry": {"observability"},
    "genai_prices": {"observability"},
}


def test_some_libraries_have_one_home() -> None:
    wrong = []
    for path in FILES:
        for name, _ in imports(path):
            homes = ONLY.get(name.partition(".")[0])
            if homes is not None and package_of(path) not in homes:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_only_env_reads_the_environment() -> None:
    wrong = []
    for path in FILES:
        for node in nodes(path):
            of_os = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
            )
            if of_os and node.attr in ("environ", "getenv", "environb") and path.name != "env.py":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


# Packages that serve every backend name no vendor's dialect; a folder of one vendor may.
SHARED = {
    "models",
    "queueing",
    "transport",
    "imaging",
    "framing",
    "observability",
    "concurrency",
    "media",
}
VENDORS = {
    path.name for path in (ROOT / "dialects").iterdir() if path.is_dir() and path.name[0] != "_"
}


def test_shared_packages_import_no_vendor() -> None:
    wrong = []
    for path in FILES:
        if package_of(path) in SHARED:
            for name, _ in imports(path):
                parts = name.split(".")
                if (
                    parts[:2] == ["majordomo", "dialects"]
                    and len(parts) > 2
                    and parts[2] in VENDORS
                ):
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_a_provider_does_not_import_another() -> None:
    for path in (ROOT / "providers").rglob("*.py"):
        module = path.relative_to(ROOT / "providers").parts[0].removesuffix(".py")
        own = f"majordomo.providers.{module}"
        for name, _ in imports(path):
            if name.startswith("majordomo.providers."):
                assert (
                    name == "majordomo.providers.base" or name == own or name.startswith(f"{own}.")
                ), path
