"""LoggingObserver: one record per call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo.observability import Call, CallResult
from majordomo.observability.logging_observer import LoggingObserver
from tests.support.loopback import Handler, Loopback, chat_completion, http_response, reply_with

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio


def call_attributes(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name.removeprefix("call_"): value
        for name, value in vars(record).items()
        if name.startswith("call_")
    }


async def test_a_call_gives_one_record(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "majordomo.calls")
    server = serve(
        reply_with(
            http_response({"error": "x"}, 500), http_response(chat_completion("secret text"))
        )
    )
    async with md.OpenAICompatible(
        server.url + "/v1", observers=[LoggingObserver()], retries=md.Retries(initial_delay=0.001)
    ) as provider:
        await provider.model("m").generate("secret text", user_id="user-42")
    [record] = [record for record in caplog.records if record.name == "majordomo.calls"]
    assert record.levelno == logging.INFO
    attributes = call_attributes(record)
    assert (
        record.getMessage()
        == f"chat openaicompatible/m finished in {attributes['seconds']:.2f} s (3 in, 2 out)"
    )
    assert len(attributes.pop("id")) == 32
    assert attributes.pop("seconds") >= 0
    assert attributes == {
        "operation": "chat",
        "provider": "openaicompatible",
        "model": "m",
        "user_id": "user-42",
        "address": server.url,
        "streamed": False,
        "outcome": "finished",
        "retries": 1,
        "input_tokens": 3,
        "output_tokens": 2,
        "finish_reason": "stop",
    }
    assert "secret" not in repr(vars(record))


async def test_images_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "majordomo.calls")
    image_model = md.Offline(observers=[LoggingObserver()]).image_model("renderer")
    await image_model.generate("a fox", size="64x64", steps=1)
    await image_model.generate("a fox", n=2, size="64x64", steps=1)
    assert [record.getMessage().rpartition("(")[2] for record in caplog.records] == [
        "1 image)",
        "2 images)",
    ]
    assert [call_attributes(record)["images"] for record in caplog.records] == [1, 2]


async def test_a_failure_is_a_warning_with_its_code(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "majordomo.calls")
    async with md.OpenAICompatible(
        serve(reply_with(http_response({"error": "no such model"}, 404))).url,
        observers=[LoggingObserver()],
    ) as provider:
        with pytest.raises(md.NotFoundError):
            await provider.model("m").generate("hi")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage().endswith("(NOT_FOUND: no such model (HTTP 404))")
    assert (
        call_attributes(record)["error"],
        call_attributes(record)["status"],
        call_attributes(record)["outcome"],
    ) == (
        "NOT_FOUND",
        404,
        "failed",
    )


async def test_a_cancelled_call_is_logged_as_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "majordomo.calls")
    async with md.Offline(observers=[LoggingObserver()]).model("rules").stream("hi"):
        pass
    await anyio.lowlevel.checkpoint()
    [record] = caplog.records
    assert (
        record.levelno,
        call_attributes(record)["outcome"],
        call_attributes(record)["streamed"],
    ) == (
        logging.INFO,
        "cancelled",
        True,
    )


def test_the_levels_are_configurable(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("program.calls")
    caplog.set_level(logging.DEBUG, "program.calls")
    observer = LoggingObserver(logger, finished=0, failed=logging.ERROR, cancelled=logging.DEBUG)
    call = Call("1", "chat", "p", "m")
    observer.on_success(call, CallResult("m", 0.1, md.llm.Usage()))
    observer.on_error(call, md.BackendError("x"))
    observer.on_cancel(call)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.DEBUG]
    assert {record.name for record in caplog.records} == {"program.calls"}
