from __future__ import annotations

import copy
import json
import pickle

import pytest

import majordomo as md
from majordomo import errors

TREE = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.MajordomoError)
]


def make(kind: type[errors.MajordomoError]) -> errors.MajordomoError:
    extra = {"phase": "load"} if kind is errors.DeadlineExceededError else {}
    return kind(
        "it broke", provider="p", model="m", status=500, retry_after=2.0, details={"a": 1}, **extra
    )


@pytest.mark.parametrize("kind", TREE)
def test_every_error_survives_pickle_and_copy(kind: type[errors.MajordomoError]) -> None:
    error = make(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert str(twin) == "it broke"
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_a_dictionary_on_request(kind: type[errors.MajordomoError]) -> None:
    found = json.loads(json.dumps(make(kind).to_dict()))
    assert found["error"] == "it broke"
    assert found["code"] == kind.default_code
    assert (
        found["details"].items()
        >= {"a": 1, "provider": "p", "model": "m", "status": 500, "retry_after": 2.0}.items()
    )


def test_the_tree_is_the_one_of_the_design() -> None:
    parents = {kind.__name__: kind.__mro__[1].__name__ for kind in TREE}
    assert parents.pop("MajordomoError") == "Exception"
    assert parents.pop("UnsupportedError") == "InvalidRequestError"
    assert parents.pop("NoImageError") == "BadResponseError"
    assert set(parents.values()) == {"MajordomoError"}
    assert len(TREE) == 20
    assert issubclass(md.DeadlineExceededError, TimeoutError)
    assert issubclass(md.ConnectionFailedError, ConnectionError)


def test_special_errors_keep_what_they_carry() -> None:
    assert pickle.loads(pickle.dumps(md.DeadlineExceededError("x", phase="idle"))).phase == "idle"
    assert pickle.loads(pickle.dumps(md.InvalidRequestError("x", field="size"))).field == "size"
    inner = md.BackendError("boom")
    assert (
        str(pickle.loads(pickle.dumps(md.ChainExhaustedError("x", failures=[inner]))).failures[0])
        == "boom"
    )
    partial = md.Reply(md.assistant("half"))
    assert pickle.loads(pickle.dumps(md.StreamBrokenError("x", partial=partial))).partial == partial


def test_messages_are_one_printable_line_of_bounded_length() -> None:
    error = md.BackendError("a\r\nb\0c\x1b[31m" + "x" * 10_000 + "\ud800")
    assert str(error).isprintable()
    assert len(str(error)) == 2048
