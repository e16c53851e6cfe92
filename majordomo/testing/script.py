"""A script: answers in order, or a function from request to answer; what both kinds of scripted models share."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import MajordomoError
from majordomo.testing.errors import ScriptError

R = TypeVar("R")


class Script(Generic[R]):
    """Shared by all models made from it; safe across threads and event loops. `check` raises ScriptError for what is no answer."""

    def __init__(
        self,
        answers: Iterable[Any] | Callable[[R], Any],
        check: Callable[[Any], None],
        kinds: tuple[type, ...],
    ) -> None:
        self.requests: list[R] = []
        self._lock = Lock()
        self._check = check
        self._answer: Callable[[R], Any] | None = None
        self._answers: list[Any] = []
        if callable(answers):
            self._answer = answers
            return
        if isinstance(answers, (*kinds, Mapping)) or not isinstance(answers, Iterable):
            raise ScriptError(
                f"a script is a list of answers or a function, not {_article(answers)}; put it into a list"
            )
        self._answers = list(answers)
        for number, answer in enumerate(self._answers):
            try:
                check(answer)
            except ScriptError as error:
                raise ScriptError(f"script[{number}]: {error.message}") from None

    @property
    def remaining(self) -> int:
        """How many answers have not been used; 0 for a function."""
        return len(self._answers) - min(len(self.requests), len(self._answers))

    async def next_answer(self, request: R) -> Any:
        """The answer to this request, which is noted. Raises ScriptError (SCRIPT_EXHAUSTED) when there is none left."""
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
        if self._answer is not None:
            answer = self._answer(request)
            if inspect.isawaitable(answer):
                answer = await answer
            self._check(answer)
            return answer
        if number > len(self._answers):
            raise ScriptError(
                f"the script is over: it has {len(self._answers)} answers, and this is request {number}: {_shown(request)}",
                code="SCRIPT_EXHAUSTED",
            )
        return self._answers[number - 1]


def is_error(beat: object) -> bool:
    return isinstance(beat, Exception)


def raised(beat: Any) -> Exception:
    """The scripted error to raise: a copy where it is of ours, so that a constant in a script is not written on by the call that met it."""
    made: Exception = copy.copy(beat) if isinstance(beat, MajordomoError) else beat
    return made


def _article(value: object) -> str:
    return f"a {type(value).__name__}"


def _shown(request: Any) -> str:
    messages = getattr(request, "messages", None)
    text = messages[-1].text if messages else getattr(request, "prompt", "")
    return repr(text if len(text) <= 200 else text[:200] + "…")
