from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("names", ["classify", "PromptAssistant, Studio, Jobs, WordList"])
def test_importing_studio_loads_neither_pillow_nor_pydantic_nor_httpx(names: str) -> None:
    code = f"""
import sys
from majordomo.studio import {names}
print(sorted({{'PIL', 'pydantic', 'httpx', 'asyncio'}} & set(sys.modules)))
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (completed.stdout.strip(), completed.stderr) == ("[]", "")
