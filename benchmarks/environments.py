"""One virtual environment for each peer; majordomo's are updated when the project changes."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent
ENVIRONMENTS = HERE / ".environments"

INSTALLED = {
    "raw": [],
    "httpx": ["httpx", "pydantic"],
    "openai": ["openai"],
    "ollama": ["ollama"],
    "anthropic": ["anthropic"],
    "litellm": ["litellm"],
    "pydantic-ai": ["pydantic-ai-slim[openai]"],
    "any-llm": ["any-llm-sdk[openai]"],
    "pillow": ["pillow"],
    "opencv": ["opencv-python-headless"],
    "pyvips": ["pyvips[binary]"],
    "majordomo": [str(PROJECT)],
    "majordomo-fast": [f"{PROJECT}[fast]"],
}
PEERS = list(INSTALLED)
OURS = ("majordomo", "majordomo-fast")
LIST_DISTRIBUTIONS = """
import json
from importlib.metadata import distributions

def size(distribution):
    paths = [file.locate() for file in distribution.files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.exists())

counted = [one for one in distributions() if one.name not in ("pip", "setuptools")]
print(json.dumps({one.name: [one.version, size(one) / 1e6] for one in counted}))
"""


def prepare(peer, fresh=False):
    """Return the interpreter of a peer's environment. Raises CalledProcessError when pip fails."""
    folder = ENVIRONMENTS / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    contents_stamp = "\n".join(
        [sys.version, *INSTALLED[peer], _fingerprint() if peer in OURS else ""]
    )
    if fresh or not stamp.exists() or stamp.read_text() != contents_stamp:
        print(f"preparing {peer}", file=sys.stderr)
        if fresh or not python.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", folder)
        stamp.unlink(missing_ok=True)
        if INSTALLED[peer]:
            _run(python, "-m", "pip", "install", "--quiet", *INSTALLED[peer])
        stamp.write_text(contents_stamp)
    return python


def contents(python):
    """Return installed distributions as JSON: name to version and megabytes.

    Bytecode, pip and setuptools are not counted.
    """
    return _run(python, "-c", LIST_DISTRIBUTIONS)


def _fingerprint():
    digest = hashlib.sha256()
    for path in [PROJECT / "pyproject.toml", *sorted((PROJECT / "majordomo").rglob("*.py"))]:
        digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _run(*command):
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True
    ).stdout
