"""Several picture models as one: the next is asked when one fails, never when one refuses."""

from __future__ import annotations

from collections.abc import Sequence

from majordomo import imagegen
from majordomo.errors import ChainExhaustedError, ConfigurationError, MajordomoError
from majordomo.flows.picture import ImageModel, Tell
from majordomo.settings import Limits


class ImageChain(ImageModel):
    """An ordinary picture model. `members` are asked in order; the next one only for an error that is `retryable`: a dead backend, a full
    queue, a limit of time. A refusal, a bad request or a wrong key is raised as it is, and in a stream nothing else is asked once a
    step or an unfinished picture was shown.

    The result says in `provider` and `model` who drew. Raises ChainExhaustedError, with all errors in `failures`, when everybody failed;
    ConfigurationError for no members.
    """

    def __init__(self, members: Sequence[imagegen.Model], *options: imagegen.Option, limits: Limits | None = None) -> None:
        self.members = tuple(members)
        if not self.members or not all(isinstance(member, imagegen.Model) for member in self.members):
            raise ConfigurationError("a chain needs picture models", details={"field": "members"})
        names = ",".join(f"{member.provider}/{member.id}" for member in self.members)
        super().__init__("chain", names, options, limits=limits or Limits())

    async def draw(self, request: imagegen.Request, tell: Tell | None) -> imagegen.Result:
        failures: list[MajordomoError] = []
        for member in self.members:
            shown = _Shown(tell) if tell is not None else None
            try:
                return await (member.generate(request) if shown is None else _streamed(member, request, shown))
            except MajordomoError as error:
                if not error.retryable or (shown is not None and shown.began):
                    raise
                failures.append(error)
        words = "; ".join(f"{error.provider}/{error.model}: {error.message}" for error in failures)
        raise ChainExhaustedError(f"every member failed: {words}", failures=failures)

    async def aclose(self) -> None:
        """Close the members that were made by name."""
        for member in self.members:
            await member.aclose()


class _Shown:
    """Hands events on, and knows whether a part of a picture was among them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.began = False

    def __call__(self, event: imagegen.ImageEvent) -> None:
        self.began = self.began or isinstance(event, (imagegen.Step, imagegen.Preview))
        self._tell(event)


async def _streamed(member: imagegen.Model, request: imagegen.Request, shown: _Shown) -> imagegen.Result:
    async with member.stream(request) as stream:
        async for event in stream:
            if isinstance(event, imagegen.Done):
                return event.result
            shown(event)
    raise ConfigurationError(f"{member.provider}/{member.id} ended its stream without Done")
