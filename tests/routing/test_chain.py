from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from loopback import Handler, Loopback, always, images, whole

import majordomo as md
from majordomo import imagegen

Serve = Callable[[Handler], Loopback]
Picture = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
QUICK = md.Retries(attempts=1)


def failing(serve: Serve, status: int = 500) -> md.ImageModel:
    return md.LlamaSwap(serve(always(whole({"error": "no"}, status))).url, retries=QUICK).image_model("bad")


async def test_the_next_is_asked_when_one_fails(serve: Serve, picture: Picture) -> None:
    good = md.LlamaSwap(serve(always(whole(images(picture().data)))).url).image_model("good")
    chain = md.ImageChain([failing(serve), failing(serve, 429), good])
    result = await chain.generate("a", seed=3)
    assert (result.provider, result.model) == ("llamaswap", "good")
    async with chain.stream("a") as stream:
        assert [type(event).__name__ async for event in stream] == ["Done"]
    assert chain.generate_sync("a").model == "good"


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_what_would_be_wrong_anywhere_ends_it(serve: Serve, picture: Picture, status: int) -> None:
    server = serve(always(whole(images(picture().data))))
    chain = md.ImageChain([failing(serve, status), md.LlamaSwap(server.url).image_model("good")])
    with pytest.raises(md.MajordomoError) as caught:
        await chain.generate("a")
    assert caught.value.status == status
    assert server.seen == []


async def test_when_all_fail_all_errors_are_told(serve: Serve) -> None:
    with pytest.raises(md.ChainExhaustedError) as caught:
        await md.ImageChain([failing(serve), failing(serve, 503)]).generate("a")
    assert [error.status for error in caught.value.failures] == [500, 503]


async def test_nothing_else_is_asked_once_a_step_was_shown(picture: Picture) -> None:
    class HalfWay(md.Offline):
        async def work(self, job: Callable[[], Any], deadline: Any) -> Any:
            self.done = getattr(self, "done", 0) + 1
            if self.done > 2:
                raise md.BackendError("died")
            return await super().work(job, deadline)

    chain = md.ImageChain([HalfWay().image_model("a"), md.Offline().image_model("b")])
    seen: list[imagegen.ImageEvent] = []
    with pytest.raises(md.BackendError):
        async with chain.stream("a", size="32x32") as stream:
            async for event in stream:
                seen.append(event)
    assert [type(event).__name__ for event in seen] == ["Step", "Step"]
    assert (await md.ImageChain([HalfWay().image_model("a"), md.Offline().image_model("b")]).generate("a", size="32x32")).model == "b"


def test_a_chain_needs_members() -> None:
    for members in ([], ["offline"]):
        with pytest.raises(md.ConfigurationError):
            md.ImageChain(members)  # type: ignore[arg-type]
