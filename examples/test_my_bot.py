"""A small bot and its tests: replies, an unreachable backend, and no access to the network.

Run it with: pytest test_my_bot.py
"""

import pytest

import majordomo as md
from majordomo.testing import Faults, Refused, ScriptedProvider, plain_image


async def answer(provider, text: str) -> str | md.ImagePart:
    """Generate an image for /draw, answer everything else, and report failures politely."""
    try:
        if text.startswith("/draw "):
            return (
                await provider.image_model("sd").generate(text.removeprefix("/draw "), size="64x64")
            ).image
        reply = await provider.model("chat").generate(
            [md.system("You are a butler."), md.user(text)]
        )
        return reply.text
    except md.ContentRefusedError:
        return "I would rather not, sir."
    except md.MajordomoError:
        return "The kitchen is closed, sir."


pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_network")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_bot_answers_and_generates_images() -> None:
    image = plain_image(64, 64)
    provider = ScriptedProvider(
        chat=["Good evening."], images=[image, md.ContentRefusedError("no")]
    )
    assert await answer(provider, "Good evening!") == "Good evening."
    assert await answer(provider, "/draw a lighthouse") == image
    assert await answer(provider, "/draw a rude lighthouse") == "I would rather not, sir."
    assert provider.chat_requests[0].messages[0].text == "You are a butler."
    assert [request.prompt for request in provider.image_requests] == [
        "a lighthouse",
        "a rude lighthouse",
    ]


async def test_bot_stays_polite_when_the_backend_is_unreachable() -> None:
    faults = Faults([Refused(times=2)])
    async with md.LlamaSwap(
        "http://gpu.test:8080", transport=faults, retries=md.Retries(attempts=2, initial_delay=0)
    ) as provider:
        assert await answer(provider, "Good evening!") == "The kitchen is closed, sir."
    assert faults.count(Refused) == 2


async def test_call_without_a_script_is_recorded_and_refused(no_network) -> None:
    async with md.LlamaSwap("http://gpu.test:8080") as provider:
        assert await answer(provider, "Good evening!") == "The kitchen is closed, sir."
    assert [str(attempt) for attempt in no_network.forbidden] == ["gpu.test:8080"]
