"""Every field of a public class is documented on its own line or in the docstring of the class."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator

import pytest

PACKAGES = ["", ".bots", ".imagegen", ".imaging", ".llm", ".studio", ".testing"]
# Their fields are those of `Request`, which documents them.
REFERRING = {"majordomo.imagegen.options.Overrides", "majordomo.llm.options.Overrides"}
# Documented in the base class.
INHERITED = {"default_max_concurrency"}


def public_classes(package: str) -> Iterator[type]:
    module = importlib.import_module(f"majordomo{package}")
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) and value.__module__.startswith("majordomo"):
            yield value


def undocumented_fields(cls: type) -> list[str]:
    [node] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    docstring = ast.get_docstring(node) or ""
    missing = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        has_own_line = (
            isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        )
        in_docstring = re.search(rf"\b{name}\b\s*[:(,]", docstring)
        if not name.startswith("_") and not has_own_line and not in_docstring:
            missing.append(name)
    return missing


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_field_is_documented(package: str) -> None:
    missing = {
        f"{cls.__name__}.{name}"
        for cls in public_classes(package)
        if f"{cls.__module__}.{cls.__qualname__}" not in REFERRING
        for name in undocumented_fields(cls)
        if name not in INHERITED
    }
    assert missing == set()


def test_an_undocumented_field_is_found() -> None:
    class Example:
        documented: int
        """A count."""
        undocumented: int

    assert undocumented_fields(Example) == ["undocumented"]
