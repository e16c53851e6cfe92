"""The script itself, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from majordomo.cli.main import main

VARIABLES = ("MAJORDOMO_CONFIG", "XDG_CONFIG_HOME", "MAJORDOMO_CHAT_MODEL", "MAJORDOMO_IMAGE_MODEL")


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: str
    err: str


Majordomo = Callable[..., Ran]


@pytest.fixture
def majordomo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Majordomo:
    """`majordomo("info", "a.png")` runs the script in an empty folder, with nothing configured."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["majordomo", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        code = ended.value.code
        if isinstance(code, str):  # what the interpreter does with it
            return Ran(1, shown.out, shown.err + code + "\n")
        return Ran(code or 0, shown.out, shown.err)

    return run
