"""majordomo.toml: where it is searched for, what it may contain, and the error messages."""

from __future__ import annotations

import contextlib
import tomllib
import traceback
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo.routing.config import Config, load
from majordomo.routing.config_file import MAX_BYTES, ConfigFile, find, search_paths
from majordomo.routing.registry import Registry, model
from majordomo.routing.toml_positions import key_lines
from tests.support.hypothesis_effort import max_examples

SECRET = "sk-very-secret-0123456789"
VALID_FILE = """
[defaults]
chat = "small"
image = "images"

[providers.box]
type = "llamaswap"
base_url = "http://gpu-box:8080"
api_key = "${BOX_KEY}"
timeout = { load = 300, idle = inf }
retries = { attempts = 1 }
max_concurrency = 2
images = "sdapi"
headers = { X-Team = "blue" }

[aliases]
small = "box/qwen3-4b"
images = "box/sdxl?steps=20"

[chains.safe]
models = ["small", "openai/gpt-5-mini"]
cooldown = 30
fallback_on = ["ContentRefusedError", "GPU_OOM"]

[gpus.one]
slots = 1
max_queue = 8
unload = true

[prices."box/qwen3-4b"]
input = 0.1
"""


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home directory without a configuration; returns their parent."""
    for variable in (
        "MAJORDOMO_CONFIG",
        "XDG_CONFIG_HOME",
        "MAJORDOMO_CHAT_MODEL",
        "MAJORDOMO_IMAGE_MODEL",
        "MAJORDOMO_EMBEDDING_MODEL",
    ):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write_config(text: str | bytes, path: str = "majordomo.toml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def config_error(text: str | bytes) -> md.ConfigurationError:
    with pytest.raises(md.ConfigurationError) as caught:
        Registry(write_config(text))
    return caught.value


def test_every_section_is_read() -> None:
    config = load(write_config(VALID_FILE))
    assert config.defaults == {"chat": "small", "image": "images"}
    assert config.providers["box"].type == "llamaswap"
    assert config.providers["box"].keywords["max_concurrency"] == 2
    assert config.aliases["images"] == "box/sdxl?steps=20"
    assert config.chains["safe"].models == ("small", "openai/gpt-5-mini")
    assert config.chains["safe"].settings == {
        "cooldown": 30,
        "fallback_on": [md.ContentRefusedError, "GPU_OOM"],
    }
    assert config.gpus == {"one": {"slots": 1, "max_queue": 8, "unload": True}}
    assert config.prices == {"box/qwen3-4b": {"input": 0.1}}
    Registry(config)


def test_only_the_first_existing_file_is_read(
    no_configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().source == "" == Registry().source
    home = write_config(
        "[defaults]\nchat = 'offline'",
        str(no_configuration / "home/.config/majordomo/majordomo.toml"),
    )
    assert load().source == str(home)
    other = write_config("", str(no_configuration / "xdg/majordomo/majordomo.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(no_configuration / "xdg"))
    assert load().source == str(other)
    write_config("[aliases]\nhere = 'offline'")
    assert (load().source, load().defaults) == ("majordomo.toml", {})
    named = write_config("", str(no_configuration / "named.toml"))
    monkeypatch.setenv("MAJORDOMO_CONFIG", str(named))
    assert load().source == str(named)
    assert load(no_configuration / "home/.config/majordomo/majordomo.toml").source == str(home), (
        "a file that is passed has precedence"
    )


def test_a_relative_xdg_folder_is_ignored(
    no_configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    assert search_paths()[1] == no_configuration / "home/.config/majordomo/majordomo.toml"


def test_without_a_home_directory_the_configuration_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container may run as a user without an entry in /etc/passwd."""

    def raise_unknown_user(_: object) -> NoReturn:
        raise KeyError("no such user")

    pwd = pytest.importorskip("pwd", reason="Windows has no such list of users")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", raise_unknown_user)
    monkeypatch.setattr(pwd, "getpwnam", raise_unknown_user)
    assert load().source == ""
    for name in ("~/majordomo.toml", "~unknown/majordomo.toml"):
        with pytest.raises(md.ConfigurationError, match="cannot be read: No such file"):
            load(name)


def test_a_named_file_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAJORDOMO_CONFIG", "missing.toml")
    with pytest.raises(
        md.ConfigurationError, match=r"MAJORDOMO_CONFIG must name an existing file; missing\.toml"
    ):
        find()
    with pytest.raises(md.ConfigurationError, match=r"other\.toml: cannot be read: No such file"):
        load("other.toml")
    with pytest.raises(md.ConfigurationError, match="cannot be read"):
        load(".")


INVALID_FILES = {
    "no equals sign": ("[providers.box]\ntype", "line 2"),
    "the same key twice": ("[defaults]\nchat = 'a/b'\nchat = 'c/d'", "line 3"),
    "an unknown section": (
        "[defaults]\n\n[provider.box]\n",
        "line 3: provider: is unknown; did you mean providers?",
    ),
    "an unknown default": (
        "[defaults]\nimages = 'offline'",
        "line 2: defaults.images: is unknown; did you mean image?",
    ),
    "a default that is not text": (
        "[defaults]\nchat = 5",
        "line 2: defaults.chat: must be text; got a number",
    ),
    "a section that is not a table": (
        "aliases = ['x']",
        "line 1: aliases: must be a table; got a list",
    ),
    "a provider that is not a table": (
        "[providers]\nbox = 'llamaswap'",
        "line 2: providers.box: must be a table; got text",
    ),
    "an unknown kind of provider": (
        "[providers.box]\nbase_url = 'http://x'\ntype = 'llama-swp'",
        "line 3: providers.box.type: there is no provider 'llama-swp'; did you mean llamaswap?",
    ),
    "no kind of provider": (
        "[providers.box]\nbase_url = 'http://x'",
        "providers.box.type: is missing; choose one of anthropic",
    ),
    "a kind that is not text": (
        "[providers.box]\ntype = 1",
        "line 2: providers.box.type: must be text; got a number",
    ),
    "an unknown keyword": (
        "[providers.box]\ntype='llamaswap'\n\nbase_ulr = 'http://x'",
        "line 4: providers.box.base_ulr: is unknown; did you mean base_url?",
    ),
    "a keyword that a file cannot set": (
        "[providers.ollama]\ntransport = 'x'",
        "line 2: providers.ollama.transport: is unknown",
    ),
    "a keyword of the wrong type": (
        "[providers.ollama]\nmax_concurrency = '2'",
        "line 2: providers.ollama.max_concurrency: must be an integer; got text",
    ),
    "a number for a switch": (
        "[providers.ollama]\nstrict = 1",
        "providers.ollama.strict: must be true or false; got a number",
    ),
    "a switch for a number": (
        "[providers.ollama]\nmax_concurrency = true",
        "must be an integer; got true or false",
    ),
    "a value that is not one of the choices": (
        "[providers.box]\ntype='llamaswap'\nimages='sdap'",
        "line 3: providers.box.images: must be 'openai+tag' or",
    ),
    "text for a table": (
        "[providers.ollama]\ntimeout = 'long'",
        "timeout: must be a table with connect, queue, load, first_byte, idle, total",
    ),
    "an unknown timeout": (
        "[providers.ollama]\n[providers.ollama.timeout]\ntotl = 5",
        "line 3: providers.ollama.timeout.totl: is unknown; did you mean total?",
    ),
    "a negative timeout": (
        "[providers.ollama]\ntimeout = { total = -5 }",
        "line 2: providers.ollama.timeout.total: timeout.total must",
    ),
    "headers that are not text": (
        "[providers.ollama.headers]\nX-Team = 5",
        "line 2: providers.ollama.headers.X-Team: must be text; got a number",
    ),
    "a name with a slash": (
        "[providers.'a/b']\ntype='ollama'",
        "line 1: providers.'a/b': the name must begin with a letter",
    ),
    "two spellings of one name": (
        "[providers.my-box]\ntype='ollama'\n[providers.mybox]\ntype='ollama'",
        "line 3: providers.mybox: the name is already used",
    ),
    "an alias named like a kind": (
        "[aliases]\nllama-swap = 'ollama/x'",
        "line 2: aliases.llama-swap: llamaswap is a kind of provider",
    ),
    "an alias named like a provider": (
        "[providers.box]\ntype='ollama'\n[aliases]\nbox = 'ollama/x'",
        "line 4: aliases.box: the name is already used by providers.box",
    ),
    "a chain named like an alias": (
        "[chains.x]\nmodels=['offline']\n[aliases]\nx = 'offline'",
        "line 4: aliases.x: the name is already used by chains.x",
    ),
    "an alias that refers to itself": (
        "[aliases]\na = 'a'",
        "line 2: aliases.a: refers to itself: a -> a",
    ),
    "a loop of aliases": (
        "[aliases]\na = 'b?steps=2'\nb = 'offline,c'\nc = 'a'",
        "refers to itself: a -> b -> c -> a",
    ),
    "a chain that contains itself": (
        "[chains.a]\nmodels = ['ollama/x', 'a']",
        "line 1: chains.a: refers to itself: a -> a",
    ),
    "a chain that contains itself through an alias": (
        "[aliases]\nb = 'a'\n[chains.a]\nmodels = ['b']",
        "refers to itself",
    ),
    "a chain without members": (
        "[chains.a]\ncooldown = 3",
        "line 1: chains.a.models: must be a list of model strings",
    ),
    "a chain of numbers": (
        "[chains.a]\nmodels = [3]",
        "line 2: chains.a.models: must be text; got a number",
    ),
    "a negative cooldown": (
        "[chains.a]\nmodels = ['offline']\ncooldown = -1",
        "line 3: chains.a.cooldown: must be a number from 0; got -1",
    ),
    "an unknown key of a chain": (
        "[chains.a]\nmodels = ['offline']\ncooldwn = 1",
        "did you mean cooldown?",
    ),
    "an unknown error class": (
        "[chains.a]\nmodels = ['offline']\nfallback_on = ['RateLimitEror']",
        (
            "line 3: chains.a.fallback_on: 'RateLimitEror' is not an error class or code; "
            "did you mean RateLimitError?"
        ),
    ),
    "errors that are not a list": (
        "[chains.a]\nmodels = ['offline']\nfallback_on = 'GPU_OOM'",
        "line 3: chains.a.fallback_on: must be a list of error classes or codes",
    ),
    "a missing member": (
        "[aliases]\na = 'ollama/x,'",
        "line 2: aliases.a: a model string must not have an empty member",
    ),
    "half a slot": ("[gpus.a]\nslots = 1.5", "line 2: gpus.a.slots: must be an integer; got 1.5"),
    "half a call": (
        "[gpus.a]\nmax_batch_calls = 1.5",
        "line 2: gpus.a.max_batch_calls: must be an integer; got 1.5",
    ),
    "less than no time": (
        "[gpus.a]\nmax_batch_seconds = -1",
        "line 2: gpus.a.max_batch_seconds: must be a number from 0; got -1",
    ),
    "no slot": ("[gpus.a]\nslots = 0", "line 2: gpus.a.slots: must be a number from 1; got 0"),
    "a switch that is not a boolean": (
        "[gpus.a]\nunload = 'yes'",
        "line 2: gpus.a.unload: must be true or false; got text",
    ),
    "an unknown key of a GPU": (
        "[gpus.a]\nplace = 1",
        "choose one of max_batch_calls, max_batch_seconds, max_queue, slots, unload",
    ),
    "a negative price": (
        "[prices.'a/b']\ninput = -1",
        "line 2: prices.'a/b'.input: must be a number from 0; got -1",
    ),
    "not UTF-8": (b"\xff\xfe", "is not valid UTF-8"),
    "lists in lists": ("a = " + "[" * 4000, "TOML|nested too deeply"),
    "tables in tables": ("[" + ".".join("a" * 40) + "]", "nested too deeply"),
    "an enormous number": ("a = " + "1" * 5000, "TOML"),
}


@pytest.mark.parametrize(("text", "expected"), INVALID_FILES.values(), ids=INVALID_FILES.keys())
def test_an_error_names_file_line_and_key(text: str | bytes, expected: str) -> None:
    message = str(config_error(text))
    assert message.startswith("majordomo.toml")
    assert any(part in message for part in expected.split("|")), message


def test_an_error_has_the_position_in_its_details() -> None:
    error = config_error("[providers.ollama]\n\nstrikt = true")
    assert error.details == {
        "file": "majordomo.toml",
        "line": 3,
        "key": "providers.ollama.strikt",
        "field": "strikt",
    }


def test_a_file_over_the_size_limit_is_rejected() -> None:
    assert f"larger than the limit of {MAX_BYTES:,} bytes" in str(
        config_error(b"# " + b"x" * (10 << 20))
    )


def test_a_byte_order_mark_and_crlf_are_accepted() -> None:
    config = load(write_config(b"\xef\xbb\xbf[aliases]\r\nsmall = 'ollama/x'\r\n"))
    assert config.aliases == {"small": "ollama/x"}
    assert "line 3" in str(
        config_error(b"\xef\xbb\xbf[aliases]\r\nsmall = 'ollama/x'\r\nlarge = 5\r\n")
    )


def test_variables_are_replaced_in_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KIND": "llamaswap",
        "HOST": "gpu-box:1",
        "KEY": SECRET,
        "WAY": "sdapi",
        "SIZE": "4b",
    }.items():
        monkeypatch.setenv(name, value)
    registry = Registry(
        {
            "defaults": {"chat": "${SMALL}"},
            "providers": {
                "box": {
                    "type": "${KIND}",
                    "base_url": "http://${HOST}",
                    "api_key": "${KEY}",
                    "images": "${WAY}",
                    "headers": {"X": "a${SIZE}"},
                }
            },
            "aliases": {"small": "box/qwen3-${SIZE}?stop=$${x}"},
        }
    )
    provider: Any = registry.provider("box")
    assert type(provider).__name__ == "LlamaSwap"
    assert provider.address.origin == "http://gpu-box:1"
    small: Any = registry.model("small")
    assert small.id == "qwen3-4b"
    assert small._build_request("a", (), {}).stop == ("${x}",)
    monkeypatch.setenv("SMALL", "small")
    assert registry.model().id == "qwen3-4b"


def test_a_missing_variable_is_reported_only_where_it_is_needed() -> None:
    registry = Registry(
        write_config(
            "[providers.box]\ntype='llamaswap'\n\napi_key = 'x${BOX_KEY}'\n"
            "[aliases]\na = 'ollama/${SIZE}'"
        )
    )
    assert registry.model("offline").id == "rules"
    with pytest.raises(
        md.ConfigurationError,
        match=r"majordomo\.toml, line 4: providers\.box\.api_key: the variable BOX_KEY is not set",
    ) as caught:
        registry.model("box/x")
    assert caught.value.code == "MISSING_VARIABLE"
    with pytest.raises(md.ConfigurationError, match=r"line 6: aliases\.a: the variable SIZE"):
        registry.model("a")


@pytest.mark.parametrize("text", ["${", "${}", "${A B}", "${A", "x${1}"])
def test_an_invalid_variable_is_rejected(text: str) -> None:
    with pytest.raises(
        md.ConfigurationError, match=r"providers\.ollama\.api_key: a variable must be written"
    ):
        Registry({"providers": {"ollama": {"api_key": text}}}).provider("ollama")


def test_keywords_are_converted_to_the_types_of_the_constructor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOX_KEY", SECRET)
    provider: Any = Registry(write_config(VALID_FILE)).provider("box")
    timeout = provider._timeout
    assert (timeout.load, timeout.idle, timeout.connect) == (300, float("inf"), 5)
    assert provider._client.retries == md.Retries(attempts=1)
    assert provider._client.admission.max_concurrency == 2
    assert type(provider._images).__name__ == "SDAPICodec"


def test_an_error_of_the_constructor_names_the_line() -> None:
    registry = Registry(
        write_config(
            "[providers.box]\ntype = 'openaicompatible'\npreset = 'grok'\n[providers.a]\ntype='ollama'\nbase_url='ftp://x'"
        )
    )
    with pytest.raises(
        md.ConfigurationError, match=r"line 3: providers\.box\.preset: preset must be one of"
    ):
        registry.provider("box")
    with pytest.raises(
        md.ConfigurationError, match=r"line 6: providers\.a\.base_url: base_url is not a valid URL"
    ):
        registry.provider("a")
    with pytest.raises(md.ConfigurationError, match=r"providers\.x\.api_key: OpenAI needs a key"):
        Registry({"providers": {"x": {"type": "openai"}}}).provider("x")


def test_a_relative_path_is_relative_to_the_configuration_file(no_configuration: Path) -> None:
    file = write_config(
        "[providers.comfy]\ntype = 'comfyui'\nworkflow = 'graph.json'",
        str(no_configuration / "elsewhere/majordomo.toml"),
    )
    graph = (
        '{"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}, '
        '"_meta": {"title": "prompt"}}}'
    )
    with pytest.raises(md.ConfigurationError, match="workflow cannot be read"):
        Registry(file).provider("comfy")
    write_config(graph, str(no_configuration / "elsewhere/graph.json"))
    # Whether this graph can be used does not matter here.
    with contextlib.suppress(md.ConfigurationError):
        Registry(file).provider("comfy")


def test_a_mapping_may_contain_python_objects() -> None:
    provider: Any = Registry(
        {"providers": {"ollama": {"timeout": md.Timeout(total=5), "api_key": "k"}}}
    ).provider("ollama")
    assert provider._timeout.total == 5


@pytest.mark.parametrize("config", [5, ["a"], {1: 2}, {"providers": {"a": {"b": {3: 4}}}}])
def test_a_value_that_is_not_a_configuration_is_rejected(config: Any) -> None:
    with pytest.raises(md.ConfigurationError):
        load(config)


def test_a_mapping_that_contains_itself_is_rejected() -> None:
    endless: dict[str, Any] = {}
    endless["providers"] = endless
    with pytest.raises(md.ConfigurationError, match="nested too deeply"):
        load(endless)


def everything_a_log_shows(error: BaseException | None) -> str:
    """Return messages, details, and the locals of every frame except the test's own."""
    text = ""
    while error is not None:
        text += f"{error!r} {getattr(error, 'details', '')}"
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                text += "".join(f"\n{name} = {value!r}" for name, value in frame.f_locals.items())
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


@pytest.mark.parametrize(
    "text",
    [
        f"[providers.box]\ntype='llamaswap'\napi_key='{SECRET}'\nbase_url='ftp://x'",
        f"[providers.box]\ntype='llamaswap'\napi_key='{SECRET}'\nimages='x'",
        f"[providers.box]\ntype='llamaswap'\napi_key='{SECRET}\\u0007'",
        f"[providers.box]\ntype='llamaswap'\nheaders={{A='{SECRET}', B=5}}",
        f"[providers.box]\ntype='llamaswap'\nbase_url='http://u:{SECRET}@x'",
        f"[providers.box]\ntype='llamaswap'\nproxy='http://u:{SECRET}@x:99999'",
        f"[providers.box]\ntype='llamaswap'\napi_key='{SECRET}'\n[aliases]\na='a'",
        f"[aliases]\nsmall='llamaswap://{SECRET}@x:99999/y'",
        "[providers.box]\ntype='openaicompatible'\npreset='${LEAK}'",
        "[providers.box]\ntype='${LEAK}'",
        "[aliases]\nbox='${LEAK}/x'\nsmall='box'",
        f"[providers.box]\ntype='llamaswap'\napi_key='{SECRET}'\napi_key='{SECRET}'",
        f"x = {{'{SECRET}'=1, '{SECRET}'=2}}",
    ],
)
def test_no_error_shows_a_secret(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAK", SECRET)
    write_config(text)
    raised = 0
    for create in (
        lambda: Registry().provider("box"),
        lambda: Registry().model("small"),
        lambda: model("box/m"),
        lambda: model("small"),
    ):
        try:
            created = create()
        except md.ConfigurationError as error:
            raised += 1
            assert SECRET not in everything_a_log_shows(error), everything_a_log_shows(error)
        else:
            assert SECRET not in repr(created)
    assert raised >= 2


def test_no_repr_shows_a_secret() -> None:
    registry = Registry(
        write_config(
            f"[providers.box]\ntype='ollama'\napi_key='{SECRET}'\n[aliases]\na='llamaswap://{SECRET}@x/y'"
        )
    )
    registry.provider("box")
    registry.model("a")
    for value in (
        registry,
        registry.config,
        registry.config.providers,
        registry.config.document,
        vars(registry),
    ):
        assert SECRET not in f"{value} {value!r}"


LINES = '''# a comment with [table]
title = "x"   # one

[a.b]
c = [
  1, # ]
  "]",
  { d = "}" },
]
e = """
[no.table]
f = 1
"""
g = \'\'\'
h = 2\'\'\'
"quoted key" . sub = 3
[ a . "dot.ted" ]
i.j = 4
k = """"five quotes"""""
[[list]]
l = 5
'''


def test_key_lines_ignores_text_that_looks_like_a_key() -> None:
    assert tomllib.loads(LINES)
    assert key_lines(LINES) == {
        ("title",): 2,
        ("a",): 4,
        ("a", "b"): 4,
        ("a", "b", "c"): 5,
        ("a", "b", "e"): 10,
        ("a", "b", "g"): 14,
        ("a", "b", "quoted key"): 16,
        ("a", "b", "quoted key", "sub"): 16,
        ("a", "dot.ted"): 17,
        ("a", "dot.ted", "i"): 18,
        ("a", "dot.ted", "i", "j"): 18,
        ("a", "dot.ted", "k"): 19,
        ("list",): 20,
        ("list", "l"): 21,
    }


def test_an_error_without_a_line_names_the_key() -> None:
    assert (
        str(ConfigFile().error(("a", "b c"), "is wrong")) == "the configuration: a.'b c': is wrong"
    )


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["ollama/x", "llamaswap", "offline", "a", "b", "${A}", f"llamaswap://{SECRET}@x/y", "a,b"]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
names = st.sampled_from(
    [
        "a",
        "b",
        "box",
        "models",
        "type",
        "timeout",
        "headers",
        "images",
        "chat",
        "cooldown",
        "slots",
        "retries",
        "base_url",
    ]
)
tables = st.dictionaries(
    st.sampled_from(["defaults", "providers", "aliases", "chains", "gpus", "prices", "x"]),
    st.one_of(
        values,
        st.dictionaries(
            names, st.one_of(values, st.dictionaries(names, values, max_size=4)), max_size=4
        ),
    ),
    max_size=4,
)


def check_config(config: Any) -> None:
    try:
        registry = Registry(config)
        assert isinstance(registry.config, Config)
        assert SECRET not in repr(registry)
        for name in ("a", "b", "box", "a/x", "box/y"):
            with contextlib.suppress(md.MajordomoError):
                assert SECRET not in repr(registry.model(name))
    except md.ConfigurationError as error:
        assert SECRET not in f"{error} {error.details}"


@given(tables)
@settings(deadline=None, max_examples=max_examples(150))
def test_any_tables_give_a_configuration_or_a_typed_error(config: dict[str, Any]) -> None:
    if isinstance(config.get("providers"), dict):
        config["providers"]["box"] = {"type": "ollama", "api_key": SECRET}
    check_config(config)


fragments = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "[aliases]",
                "[providers.box]",
                "a",
                "=",
                "'",
                '"',
                '"""',
                "[",
                "]",
                "{",
                "}",
                ".",
                "\n",
                "#",
                ",",
                "1",
                "'offline'",
                "b",
            ]
        ),
        st.sampled_from(
            [
                f"api_key = '{SECRET}'\n",
                f'api_key = "{SECRET}"\n',
                "type = 'ollama'\n",
                "[chains.c]\nmodels = ['a']\n",
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)


@given(fragments)
@settings(
    deadline=None,
    max_examples=max_examples(150),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_file_gives_a_configuration_or_a_typed_error(text: str) -> None:
    check_config(write_config(text.encode("utf-8", "surrogatepass")))
