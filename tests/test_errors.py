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


def make_error(error_type: type[errors.MajordomoError]) -> errors.MajordomoError:
    fields = {"phase": "load"} if error_type is errors.DeadlineExceededError else {}
    return error_type(
        "it broke", provider="p", model="m", status=500, retry_after=2.0, details={"a": 1}, **fields
    )


@pytest.mark.parametrize("error_type", TREE)
def test_every_error_survives_pickle_and_copy(error_type: type[errors.MajordomoError]) -> None:
    error = make_error(error_type)
    for duplicate in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(duplicate) is error_type
        assert str(duplicate) == "it broke"
        assert vars(duplicate) == vars(error)


@pytest.mark.parametrize("error_type", TREE)
def test_every_error_converts_to_a_json_dictionary(error_type: type[errors.MajordomoError]) -> None:
    as_dict = json.loads(json.dumps(make_error(error_type).to_dict()))
    assert as_dict["error"] == "it broke"
    assert as_dict["code"] == error_type.default_code
    assert (
        as_dict["details"].items()
        >= {"a": 1, "provider": "p", "model": "m", "status": 500, "retry_after": 2.0}.items()
    )


def test_the_exception_tree() -> None:
    parents = {error_type.__name__: error_type.__mro__[1].__name__ for error_type in TREE}
    assert parents.pop("MajordomoError") == "Exception"
    assert parents.pop("UnsupportedError") == "InvalidRequestError"
    assert parents.pop("NoImageError") == "BadResponseError"
    assert set(parents.values()) == {"MajordomoError"}
    assert len(TREE) == 20
    assert issubclass(md.DeadlineExceededError, TimeoutError)
    assert issubclass(md.ConnectionFailedError, ConnectionError)


def test_attributes_of_subclasses_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(md.DeadlineExceededError("x", phase="idle"))).phase == "idle"
    assert pickle.loads(pickle.dumps(md.InvalidRequestError("x", field="size"))).field == "size"
    inner = md.BackendError("boom")
    assert (
        str(pickle.loads(pickle.dumps(md.ChainExhaustedError("x", failures=[inner]))).failures[0])
        == "boom"
    )
    partial = md.Reply(md.assistant("half"))
    assert pickle.loads(pickle.dumps(md.StreamBrokenError("x", partial=partial))).partial == partial


def test_messages_are_one_printable_line_of_limited_length() -> None:
    error = md.BackendError("a\r\nb\0c\x1b[31m" + "x" * 10_000 + "\ud800")
    assert str(error).isprintable()
    assert len(str(error)) == 2048
