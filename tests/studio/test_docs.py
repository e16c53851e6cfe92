from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import majordomo as md

PAGE = Path(__file__).parents[2] / "docs" / "studio.md"


async def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    offline = md.Offline()
    names: dict[str, Any] = {"painter": offline.image_model("sketch"), "chat": offline.model("clerk")}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for number, block in enumerate(blocks, 1):
        code: CodeType = compile(block, f"block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        made = eval(code, names)
        if inspect.iscoroutine(made):
            await made
    assert sorted(path.name for path in (tmp_path / "blue-room").iterdir()) == [
        "main-2-thumbnail.webp",
        "main-2.webp",
        "main-thumbnail.webp",
        "main.webp",
        "manifest.json",
    ]
    assert "animal watercolour calm 16:9 4 en ()" in capsys.readouterr().out
    assert len(names["outcome"].pictures) == 1
