"""Plug-ins: providers of other distributions, found by their entry points."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import majordomo as md
from majordomo.routing.plugins import provider_class
from majordomo.routing.registry import Registry
from tests.support.loopback import Handler, Loopback, chat_completion, http_response, reply_with

Serve = Callable[[Handler], Loopback]
EXAMPLE = Path(__file__).parent.parent / "plugin_example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example plug-in, installed by pip into a directory of its own.

    The wheel is built here from the example's pyproject.toml, because pip would download a build
    backend.
    """
    folder = tmp_path_factory.mktemp("plugin")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    name = f"{project['name'].replace('-', '_')}-{project['version']}"
    groups = "".join(
        f"[{group}]\n" + "".join(f"{entry} = {value}\n" for entry, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    files = {
        "majordomo_example.py": (EXAMPLE / "majordomo_example.py").read_text(),
        f"{name}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        ),
        f"{name}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        f"{name}.dist-info/entry_points.txt": groups,
    }
    files[f"{name}.dist-info/RECORD"] = "".join(
        f"{file},,\n" for file in [*files, f"{name}.dist-info/RECORD"]
    )
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]
    subprocess.run(
        [*command, "--target", str(folder / "site"), wheel.filename or ""],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / "site"


def run(code: str, site: Path, folder: Path, **variables: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAJORDOMO_")
    } | variables
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "PYTHONPATH": str(site), "HOME": str(folder)},
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def test_an_installed_provider_works_by_its_name(
    serve: Serve, installed: Path, tmp_path: Path
) -> None:
    server = serve(reply_with(http_response(chat_completion("from a plug-in"))))
    output = run(
        "import asyncio, sys, majordomo as md\n"
        "md.model('offline')\n"
        "assert 'majordomo_example' not in sys.modules\n"
        "async def main():\n"
        f"    async with md.model('example://key-1@127.0.0.1:{server.port}/some/model') as model:\n"
        "        reply = await model.generate('hi', extra={'example': {'a': 1}})\n"
        "        print(model.provider, model.id, reply.text)\n"
        "asyncio.run(main())\n",
        installed,
        tmp_path,
    )
    assert output == "example some/model from a plug-in\n"
    assert (server.requests[0].path, server.requests[0].headers["x-example-key"]) == (
        "/v1/chat/completions",
        "key-1",
    )
    assert (server.requests[0].json["model"], server.requests[0].json["a"]) == ("some/model", 1)


def test_a_plugin_is_configured_like_a_built_in_provider(
    serve: Serve, installed: Path, tmp_path: Path
) -> None:
    server = serve(reply_with(http_response(chat_completion("from a plug-in"))))
    (tmp_path / "majordomo.toml").write_text(
        f"[providers.lab]\ntype='example'\nbase_url='{server.url}/v1'\napi_key='${{LAB_KEY}}'\nregion='us'\ntimeout={{total=30}}\n[defaults]\nchat='lab/m'\n"
    )
    output = run(
        "import majordomo as md\nfrom majordomo.routing.registry import Registry\n"
        "with Registry() as registry: print(registry.model().generate_sync('hi').text)\n"
        "try: md.model('exampel/x')\n"
        "except md.ConfigurationError as error: print(error)\n",
        installed,
        tmp_path,
        LAB_KEY="key-2",
    )
    assert output == ("from a plug-in\nthere is no provider 'exampel'; did you mean example?\n")
    assert (
        server.requests[0].headers["x-example-key"],
        server.requests[0].headers["x-region"],
    ) == (
        "key-2",
        "us",
    )
    (tmp_path / "majordomo.toml").write_text(
        "[providers.lab]\ntype='example'\napi_key='k'\nregion='mars'\n\nregoin='us'"
    )
    output = run(
        "import majordomo as md\nfrom majordomo.routing.registry import Registry\n"
        "for create in (Registry, lambda: md.model('lab/x'), lambda: md.model('example/x')):\n"
        "    try: create()\n"
        "    except md.ConfigurationError as error: print(error)\n",
        installed,
        tmp_path,
    )
    assert output.splitlines() == [
        "majordomo.toml, line 6: providers.lab.regoin: is unknown; did you mean region?",
        "majordomo.toml, line 6: providers.lab.regoin: is unknown; did you mean region?",
        "no API key for Example AI; pass api_key or set EXAMPLE_API_KEY",
    ]


def install_plugin(
    folder: Path,
    source: str,
    name: str = "broken",
    value: str = "broken_plugin:Broken",
    distribution: str = "broken-dist",
) -> None:
    """Write the files of an installed distribution."""
    (folder / "broken_plugin.py").write_text(source)
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[majordomo.providers]\n{name} = {value}\n")


BROKEN = {
    "a module that cannot be imported": (
        "import no_such_module_anywhere",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such",
    ),
    "a module that fails": (
        "raise RuntimeError('out of order')",
        "cannot be imported: RuntimeError: out of order",
    ),
    "a missing class": ("x = 1", "cannot be imported: AttributeError"),
    "not a class": (
        "Broken = 5",
        "broken_plugin:Broken must be a subclass of majordomo.providers.base.BaseProvider",
    ),
    "a class that is not a provider": ("class Broken: name = 'broken'", "must be a subclass of"),
    "a class with another name": (
        "from majordomo import Offline\nclass Broken(Offline): name = 'other'",
        "its class has the name 'other'",
    ),
}


@pytest.mark.parametrize(("source", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_an_error_names_the_broken_plugin(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    for create in (
        lambda: md.model("broken/x"),
        lambda: Registry({"providers": {"a": {"type": "broken"}}}),
    ):
        with pytest.raises(md.ConfigurationError) as caught:
            create()
        assert "provider plug-in 'broken' of broken-dist: " in str(caught.value)
        assert expected in str(caught.value)
        assert caught.value.code == "BROKEN_PLUGIN"
    assert md.model("offline").id == "rules", "other providers still work"
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)


def test_two_plugins_of_one_name_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, "", distribution="first")
    install_plugin(tmp_path, "", value="broken_plugin:Other", distribution="second")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        md.ConfigurationError,
        match="provider plug-in 'broken' of first, second: they have the same name",
    ):
        md.model("broken/x")


def test_a_plugin_cannot_replace_a_built_in_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, "raise RuntimeError('loaded')", name="offline")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert provider_class("offline") is md.Offline
    assert provider_class("unknown") is None
