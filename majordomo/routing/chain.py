"""Chains: several models as one; the next one is called when one fails, not when one refuses.

A resolved model string becomes a model here, because it may name a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from majordomo import imagegen, llm
from majordomo.backend_status import Capability
from majordomo.concurrency.event_stream import EventStream
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import CallWarning, ConfigurationError
from majordomo.imagegen.request import check_request as check_image_request
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.reply import empty_reply
from majordomo.llm.request import check_request as check_chat_request
from majordomo.models.call_context import Emit
from majordomo.models.chat_model import ChatModelBase
from majordomo.models.image_model import ImageModelBase
from majordomo.routing.capabilities import chat_need, image_need
from majordomo.routing.chain_request import ChainRequest, chat_chain_request, image_chain_request
from majordomo.routing.config import load
from majordomo.routing.factory import ModelFactory
from majordomo.routing.failover import ChainBase, MemberEvents
from majordomo.routing.resolve import ChainName, Target, resolve

# mypy does not accept an abstract class where a type is expected.
_CHAT_MODEL: Any = llm.Model
_IMAGE_MODEL: Any = imagegen.Model


def make_model(factory: ModelFactory, target: Target, kind: str, options: Sequence[Any]) -> Any:
    """Return the model of a resolved model string.

    Args:
        factory: Makes the models of providers.
        target: A model or a chain.
        kind: "chat", "image" or "embedding".
        options: Options for all calls of the model.

    Raises:
        ConfigurationError: The model cannot be constructed.
    """
    if not isinstance(target, ChainName):
        return factory.model(target, kind, options)
    models = [make_model(factory, member, kind, ()) for member in target.models]
    if kind == "embedding":
        raise ConfigurationError(
            "a chain of embedding models is not supported because their vectors differ; "
            "name one model",
            details={"field": "model"},
        )
    chain_class: Callable[..., Any] = ImageChain if kind == "image" else Chain
    chain = factory.make_chain(chain_class, models, options, target)
    if factory.owned:
        # A chain does not close models that it was given, but these were created for it.
        chain._owned = models
    return chain


def model_from_string(kind: str, name: str | None, options: Sequence[Any] = ()) -> Any:
    """Return a model with a provider of its own, which is closed with the model.

    `name` is a model string; None is the default of this kind of model.
    """
    config = load()
    return make_model(ModelFactory(config, owned=True), resolve(config, name, kind), kind, options)


class Chain(
    ChainBase[llm.Model, llm.Request, llm.Reply, llm.ChatEvent],
    ChatModelBase[ChainRequest[llm.Request]],
):
    """A chat model made of several models, which are called in order until one answers.

    The next model is called after an error that is `retryable`, while a model is cooling down, and
    when it is known before anything is sent that a model cannot handle the request: after an
    UnsupportedError, or for a request with an image when the model is listed without "vision". A
    refusal, an invalid request or a wrong key is raised unchanged, unless `fallback_on` names its
    class or code. Once a part of the answer was delivered, no other model is called; the chain
    raises StreamBrokenError with that part.

    The retries of a model come first: use `Retries(attempts=1)` on its provider for fast failover.
    A model that keeps failing is skipped for a while (circuit breaker, see `ChainHealth`). When all
    models are cooling down, the one whose cooldown ends first is called anyway, by one call at a
    time.

    The reply names the model that answered in `provider` and `model`, and the models that did not
    in `failed_attempts`. Options apply in this order, later ones win: a model's own, the chain's,
    the fields of the request, those of the call, keywords.

    Args:
        models: Models, also chains, or model strings. Models made from strings are closed with the
            chain; the others are left open.
        *options: Options for all models of the chain.
        cooldown: Seconds of the first cooldown; 30 by default. Exclusive with `health`.
        fallback_on: Error classes or error codes after which the next model is called as well.
        health: The health records, to share them between chains. Each chain has its own by default.
        capabilities: Maps "provider/model" to what that model can do; overrides the provider's
            list.
        limits: Limits for the checks of the request.

    Raises:
        ConfigurationError: There are no models, a model is not a chat model, a chain contains
            itself, or a setting is invalid.
        ChainExhaustedError: From a call: no model answered. `failures` holds the error of each.

    Example:
        ```python
        chain = Chain(["ollama/qwen3", "openai/gpt-5-mini"])
        reply = await chain.generate("Hello")
        ```
    """

    _kind = _CHAT_MODEL
    _done = llm.Done

    def _resolve_model(self, model_string: str) -> llm.Model:
        return cast("llm.Model", model_from_string("chat", model_string))

    def _need(self, request: llm.Request) -> Capability | None:
        return chat_need(request)

    def _partial(
        self,
        model: llm.Model,
        stream: EventStream[llm.ChatEvent, llm.Reply],
        events: MemberEvents,
    ) -> llm.Reply:
        return stream.result

    def _build_request(
        self,
        messages: Messages | llm.Request,
        options: Sequence[llm.Option],
        overrides: llm.Overrides,
    ) -> ChainRequest[llm.Request]:
        def build() -> ChainRequest[llm.Request]:
            request = (
                messages
                if isinstance(messages, llm.Request)
                else llm.Request(as_messages(messages))
            )
            chain_request = chat_chain_request(request, self._options, options, overrides)
            check_chat_request(chain_request.request, self._limits)
            return chain_request

        return self._checked(build)

    def _open_source(
        self, request: ChainRequest[llm.Request]
    ) -> TaskStream[llm.ChatEvent, llm.Reply]:
        call = self._start_call(request, None, None)

        async def run(emit: Emit) -> llm.Reply:
            call.emit = emit
            return await self._generate(request, call)

        def partial() -> llm.Reply:
            stream = call.stream
            return empty_reply(self.id, self.provider) if stream is None else stream.result

        return TaskStream(run, last_event=llm.Done, partial=partial)


class ImageChain(
    ChainBase[imagegen.Model, imagegen.Request, imagegen.Result, imagegen.ImageEvent],
    ImageModelBase[ChainRequest[imagegen.Request]],
):
    """An image model made of several models, which are called in order until one answers.

    It works like `Chain`, with these differences: requests with `images` skip models that are
    listed without "edit". A step or a preview counts as a delivered part of the answer. `partial`
    of the StreamBrokenError is then a result with the last preview of each image and the warning
    `UNFINISHED`, or None when there was no preview.

    Args:
        models: Image models, also image chains, or model strings.
        *options: Options for all models of the chain.
        cooldown: Seconds of the first cooldown; 30 by default. Exclusive with `health`.
        fallback_on: Error classes or error codes after which the next model is called as well.
        health: The health records, to share them between chains. Each chain has its own by default.
        capabilities: Maps "provider/model" to what that model can do; overrides the provider's
            list.
        limits: Limits for the checks of the request.

    Raises:
        ConfigurationError: There are no models, a model is not an image model, a chain contains
            itself, or a setting is invalid.
        ChainExhaustedError: From a call: no model answered. `failures` holds the error of each.
    """

    _kind = _IMAGE_MODEL
    _done = imagegen.Done

    def _resolve_model(self, model_string: str) -> imagegen.Model:
        return cast("imagegen.Model", model_from_string("image", model_string))

    def _need(self, request: imagegen.Request) -> Capability | None:
        return image_need(request)

    def _partial(
        self,
        model: imagegen.Model,
        stream: EventStream[imagegen.ImageEvent, imagegen.Result],
        events: MemberEvents,
    ) -> imagegen.Result | None:
        if not events.previews:
            return None
        warning = CallWarning(
            "UNFINISHED", "the generation was interrupted; these images are unfinished previews"
        )
        images = tuple(events.previews[index] for index in sorted(events.previews))
        return imagegen.Result(images, warnings=(warning,), model=model.id, provider=model.provider)

    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> ChainRequest[imagegen.Request]:
        def build() -> ChainRequest[imagegen.Request]:
            request = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            chain_request = image_chain_request(request, self._options, options, overrides)
            check_image_request(chain_request.request, self._limits)
            return chain_request

        return self._checked(build)
