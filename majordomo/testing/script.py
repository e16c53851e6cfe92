"""Scripts of the scripted models: answers in order, or a function from request to answer."""

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
    """Answers that several models may share, across threads and event loops.

    Args:
        answers: A list of answers, or a function, which may be async, from request to answer.
        check: Raises `ScriptError` for a value that is not an answer.
        answer_types: Types of answers that are iterable or that users may pass without a list.

    Raises:
        ScriptError: `answers` is neither, or contains something that is not an answer.
    """

    def __init__(
        self,
        answers: Iterable[Any] | Callable[[R], Any],
        check: Callable[[Any], None],
        answer_types: tuple[type, ...],
    ) -> None:
        self.requests: list[R] = []
        self._lock = Lock()
        self._check = check
        self._function: Callable[[R], Any] | None = None
        self._answers: list[Any] = []
        if callable(answers):
            self._function = answers
            return
        if isinstance(answers, (*answer_types, Mapping)) or not isinstance(answers, Iterable):
            raise ScriptError(
                "script must be a list of answers or a function; "
                f"got {type(answers).__name__}. Put a single answer into a list"
            )
        self._answers = list(answers)
        for index, answer in enumerate(self._answers):
            try:
                check(answer)
            except ScriptError as error:
                raise ScriptError(f"script[{index}]: {error.message}") from None

    @property
    def remaining(self) -> int:
        """Number of unused answers; 0 for a function."""
        return len(self._answers) - min(len(self.requests), len(self._answers))

    async def next_answer(self, request: R) -> Any:
        """Record the request and return its answer.

        Raises:
            ScriptError: No answer is left (SCRIPT_EXHAUSTED), or the function returned something
                that is not an answer.
        """
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
        if self._function is not None:
            answer = self._function(request)
            if inspect.isawaitable(answer):
                answer = await answer
            self._check(answer)
            return answer
        if number > len(self._answers):
            raise ScriptError(
                f"the script has {len(self._answers)} answers, and this is request {number}: "
                f"{_summarize(request)}. Add an answer to the script",
                code="SCRIPT_EXHAUSTED",
            )
        return self._answers[number - 1]


def is_error(step: object) -> bool:
    """Return whether a step of a script raises."""
    return isinstance(step, Exception)


def copy_error(step: Any) -> Exception:
    """Return the error to raise for a step.

    An error of majordomo is copied, because the call adds details to it and a script may use one
    object several times.
    """
    error: Exception = copy.copy(step) if isinstance(step, MajordomoError) else step
    return error


def _summarize(request: Any) -> str:
    messages = getattr(request, "messages", None)
    text = messages[-1].text if messages else getattr(request, "prompt", "")
    return repr(text if len(text) <= 200 else text[:200] + "…")
