"""The built distributions contain the library and nothing else.

Building from the source tree and from the source distribution gives the same wheel.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

import majordomo

pytest.importorskip("hatchling", reason="hatchling builds the distributions")

ROOT = Path(__file__).parent.parent
NAME = f"majordomo_client-{majordomo.__version__}"
INFO = f"{NAME}.dist-info"
MAX_WHEEL_BYTES = 1024 * 1024
MAX_SDIST_BYTES = 8 * 1024 * 1024


def build(tree: Path, folder: Path, target: str) -> Path:
    """Build without isolation, so without a network."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    completed = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert completed.returncode == 0, completed.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def sources() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "majordomo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())


def test_wheel_contains_only_the_library(wheel: Path) -> None:
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {entry.compress_type for entry in archive.infolist()} == {ZIP_DEFLATED}
        assert all(archive.read(name) == (ROOT / name).read_bytes() for name in sources())
    about = {
        f"{INFO}/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert "majordomo/py.typed" in names
    assert sorted(names) == sorted(sources() | about)
    assert {Path(name).suffix for name in sources()} == {".py", ".typed", ".toml"}
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_wheel_metadata(wheel: Path) -> None:
    about = metadata(wheel)
    assert (about["Name"], about["Version"], about["Requires-Python"]) == (
        "majordomo-client",
        majordomo.__version__,
        ">=3.11",
    )
    assert (about["License-Expression"], about.get_all("License-File")) == ("MIT", ["LICENSE"])
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload() == (ROOT / "README.md").read_text()


def test_plain_install_requires_only_these_packages(wheel: Path) -> None:
    about = metadata(wheel)
    requirements = about.get_all("Requires-Dist") or []
    plain = sorted(re.split(r"[<>=!]", line)[0] for line in requirements if "extra ==" not in line)
    assert plain == ["anyio", "certifi", "h11", "httpx", "pillow", "pydantic"]
    assert sorted(about.get_all("Provides-Extra") or []) == [
        "cli",
        "comfyui",
        "dev",
        "docs",
        "fast",
        "otel",
        "peers",
        "prices",
    ]
    pillow = next(line for line in requirements if line.startswith("pillow"))
    # Earlier versions do not detect all decompression bombs.
    assert pillow == "pillow>=12.3"


def test_wheel_installs_one_command_and_one_pytest_plugin(wheel: Path) -> None:
    entries = ConfigParser()
    with ZipFile(wheel) as archive:
        entries.read_string(archive.read(f"{INFO}/entry_points.txt").decode())
    assert {section: dict(entries[section]) for section in entries.sections()} == {
        "console_scripts": {"majordomo": "majordomo.cli.main:main"},
        "pytest11": {"majordomo": "majordomo.testing.plugin"},
    }


@pytest.mark.slow
def test_wheel_from_the_source_distribution_is_identical(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    rebuilt = build(tmp_path / NAME, tmp_path / "built", "wheel")
    assert (
        hashlib.sha256(rebuilt.read_bytes()).hexdigest()
        == hashlib.sha256(wheel.read_bytes()).hexdigest()
    )


def test_source_distribution_contains_tests_and_no_build_files(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    assert sources() <= names
    assert {
        "PKG-INFO",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "SECURITY.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "tests/conftest.py",
        "scripts/check",
        "benchmarks/run.py",
    } <= names
    allowed = (
        "majordomo/",
        "tests/",
        "docs/",
        "examples/",
        "scripts/",
        "benchmarks/",
        "fuzz/",
        ".ci/",
    )
    loose = {name for name in names if not name.startswith(allowed)}
    assert loose <= {
        "PKG-INFO",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "SECURITY.md",
        "CHANGELOG.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CODE_OF_CONDUCT.md",
        ".gitignore",
        "zensical.toml",
    }
    assert not any(
        part in ("__pycache__", ".git", ".venv") or part.endswith((".pyc", ".whl"))
        for name in names
        for part in name.split("/")
    )
    assert sdist.stat().st_size < MAX_SDIST_BYTES
