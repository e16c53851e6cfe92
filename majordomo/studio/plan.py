"""What is to be drawn: settings and named prompts, and how they came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from majordomo import imagegen
from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.settings import Limits
from majordomo.studio.classifier import MOST_COUNT, Classification
from majordomo.studio.errors import reported
from majordomo.validation import check_number, check_text

RULES = "rules"  # who answers when no model does
MOST_PROMPTS = MOST_COUNT


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Settings for all images of a plan, as imagegen.Request has them; what is unset stays the backend's choice.

    `family` is the target they are for, `size` "WIDTHxHEIGHT" or else `aspect` "WIDTH:HEIGHT", `n` how many images in all, 1 to 16.
    """

    family: str = "hosted"
    size: str = ""
    aspect: str = ""
    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str = ""
    n: int = 1

    def __post_init__(self) -> None:
        check_number("n", self.n, 1, MOST_COUNT, whole=True)
        wanted = imagegen.Request(
            "x",
            steps=self.steps,
            cfg_scale=self.cfg_scale,
            sampler=self.sampler,
            size=self.size,
            aspect="" if self.size else self.aspect,
        )
        imagegen.request.check_request(wanted, Limits())


@dataclass(frozen=True, slots=True)
class NamedPrompt:
    """One image's words. `name` is for people and files."""

    name: str
    prompt: str
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        for name, most in (
            ("name", 80),
            ("prompt", Limits().max_prompt_characters),
            ("negative_prompt", Limits().max_prompt_characters),
        ):
            check_text(getattr(self, name), name, most)
        if not self.name.strip() or not self.name.isprintable():
            raise InvalidRequestError("name is empty or holds a control character", field="name")
        if not self.prompt.strip():
            raise InvalidRequestError("prompt is empty", field="prompt")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is needed to draw, and where it came from.

    `answered_by` is "provider/model", or "rules" when no chat model did; then `failure` says why, if one was asked. `asked` and `answer`
    are what went to the chat model and what came back, as text. `cached`: it was asked some other time.
    """

    classification: Classification
    config: GenerationConfig
    prompts: tuple[NamedPrompt, ...]
    answered_by: str = RULES
    asked: str = ""
    answer: str = ""
    warnings: tuple[CallWarning, ...] = ()
    failure: MajordomoError | None = field(default=None, compare=False)
    cached: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            raise InvalidRequestError(f"a plan has 1 to {MOST_PROMPTS} prompts", field="prompts")
        names = [prompt.name for prompt in self.prompts]
        if len(set(names)) != len(names):
            raise InvalidRequestError("two prompts have the same name", field="prompts")

    @property
    def brief(self) -> str:
        return self.classification.brief

    @property
    def variants(self) -> tuple[NamedPrompt, ...]:
        """One per image: the prompts in turn until there are `config.n`; a further image of one is called "name-2", "name-3"."""
        told: list[NamedPrompt] = []
        taken = {prompt.name for prompt in self.prompts}
        for index in range(self.config.n):
            prompt = self.prompts[index % len(self.prompts)]
            round_ = index // len(self.prompts) + 1
            name = prompt.name
            while round_ > 1 and name in taken:
                name, round_ = f"{prompt.name[:70]}-{round_}", round_ + 1
            taken.add(name)
            told.append(NamedPrompt(name, prompt.prompt, prompt.negative_prompt))
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "classification": self.classification.to_dict(),
            "config": asdict(self.config),
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "answered_by": self.answered_by,
            "asked": self.asked,
            "answer": self.answer,
            "warnings": [asdict(warning) for warning in self.warnings],
            "failure": None if self.failure is None else self.failure.to_dict(),
            "cached": self.cached,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """What `to_dict` gave. Raises InvalidRequestError for anything else."""
        try:
            return cls(
                Classification.from_dict(values["classification"]),
                GenerationConfig(**values["config"]),
                tuple(NamedPrompt(**prompt) for prompt in values["prompts"]),
                str(values["answered_by"]),
                str(values["asked"]),
                str(values["answer"]),
                tuple(CallWarning(**warning) for warning in values["warnings"]),
                None if values["failure"] is None else reported(values["failure"]),
                bool(values["cached"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequestError(
                f"this is no saved plan: {type(error).__name__}", field="plan"
            ) from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote. Raises InvalidRequestError for anything else."""
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise InvalidRequestError("this is no saved plan", field="plan") from None
        return cls.from_dict(values)
