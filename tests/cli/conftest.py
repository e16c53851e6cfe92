"""A fixture that runs the `majordomo` script in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from majordomo.cli.main import main

VARIABLES = ("MAJORDOMO_CONFIG", "XDG_CONFIG_HOME", "MAJORDOMO_CHAT_MODEL", "MAJORDOMO_IMAGE_MODEL")


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    status: int
    out: str
    err: str


Majordomo = Callable[..., CompletedCommand]


@pytest.fixture
def majordomo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Majordomo:
    """Return a function that runs the script in an empty folder without a configuration.

    For example, `majordomo("info", "a.png")`.
    """
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> CompletedCommand:
        monkeypatch.setattr(sys, "argv", ["majordomo", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        code = exited.value.code
        # The interpreter prints the text and exits with status 1.
        if isinstance(code, str):
            return CompletedCommand(1, captured.out, captured.err + code + "\n")
        return CompletedCommand(code or 0, captured.out, captured.err)

    return run
