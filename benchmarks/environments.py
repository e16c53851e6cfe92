"""One virtual environment for each peer, made once; majordomo's are brought up to date when the project has changed."""

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


def prepare(peer, fresh=False):
    """The interpreter of this peer's environment. Raises `CalledProcessError` when pip cannot install it."""
    folder = ENVIRONMENTS / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join([sys.version, *INSTALLED[peer], _fingerprint() if peer in OURS else ""])
    if fresh or not stamp.exists() or stamp.read_text() != wanted:
        print(f"preparing {peer}", file=sys.stderr)
        if fresh or not python.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", folder)
        stamp.unlink(missing_ok=True)
        if INSTALLED[peer]:
            _run(python, "-m", "pip", "install", "--quiet", *INSTALLED[peer])
        stamp.write_text(wanted)
    return python


def contents(python):
    """What is installed, by name: version and megabytes, bytecode left out. pip and setuptools do not count."""
    script = (
        "import json\n"
        "from importlib.metadata import distributions\n"
        "def size(d): return sum(f.locate().stat().st_size for f in d.files or () if f.suffix != '.pyc' and f.locate().exists())\n"
        "print(json.dumps({d.name: [d.version, size(d) / 1e6] for d in distributions() if d.name not in ('pip', 'setuptools')}))"
    )
    return _run(python, "-c", script)


def _fingerprint():
    digest = hashlib.sha256()
    for path in [PROJECT / "pyproject.toml", *sorted((PROJECT / "majordomo").rglob("*.py"))]:
        digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _run(*command):
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True
    ).stdout
