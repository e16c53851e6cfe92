"""Plans: settings and named prompts for the images of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from majordomo import imagegen
from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.settings import Limits
from majordomo.studio.classifier import MAX_IMAGES, Classification
from majordomo.studio.errors import error_from_dict
from majordomo.validation import check_number, check_text

# The value of `Plan.answered_by` when no chat model wrote the prompts.
RULES = "rules"
MAX_PROMPTS = MAX_IMAGES


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Settings of all images of a plan.

    The settings mean what they mean in `imagegen.Request`. A setting left at its default is not
    sent; the backend's own default applies.
    """

    family: str = "hosted"
    """Name of the target (family of image models) that the settings are for."""
    size: str = ""
    """`"WIDTHxHEIGHT"` in pixels. "" uses `aspect`."""
    aspect: str = ""
    """`"WIDTH:HEIGHT"`; used when `size` is ""."""
    steps: int | None = None
    """Denoising steps."""
    cfg_scale: float | None = None
    """Guidance scale (CFG)."""
    sampler: str = ""
    """Name of the sampler."""
    n: int = 1
    """Number of images in the whole plan, 1 to 16. Default: 1."""

    def __post_init__(self) -> None:
        check_number("n", self.n, 1, MAX_IMAGES, integer=True)
        request = imagegen.Request(
            "x",
            steps=self.steps,
            cfg_scale=self.cfg_scale,
            sampler=self.sampler,
            size=self.size,
            aspect="" if self.size else self.aspect,
        )
        imagegen.request.check_request(request, Limits())


@dataclass(frozen=True, slots=True)
class NamedPrompt:
    """The prompts of one image.

    Raises:
        InvalidRequestError: A field is not a text, too long, or empty where it must not be.
    """

    name: str
    """A name for people and for file names, 1 to 80 printable characters."""
    prompt: str
    """The prompt; not empty."""
    negative_prompt: str = ""
    """What must not be in the image."""

    def __post_init__(self) -> None:
        for name, max_characters in (
            ("name", 80),
            ("prompt", Limits().max_prompt_characters),
            ("negative_prompt", Limits().max_prompt_characters),
        ):
            check_text(getattr(self, name), name, max_characters)
        if not self.name.strip() or not self.name.isprintable():
            raise InvalidRequestError(
                "name must not be empty or contain control characters", field="name"
            )
        if not self.prompt.strip():
            raise InvalidRequestError("prompt must not be empty", field="prompt")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything needed to generate the images of a run, and where it came from.

    Raises:
        InvalidRequestError: There are no prompts or too many, or two have the same name.
    """

    classification: Classification
    """The brief, as the classifier read it."""
    config: GenerationConfig
    """Settings of all images."""
    prompts: tuple[NamedPrompt, ...]
    """1 to 16 prompts with different names."""
    answered_by: str = RULES
    """`"provider/model"` of the chat model that wrote the prompts, or `"rules"`."""
    chat_request: str = ""
    """The messages sent to the chat model, as JSON text; "" when none was called."""
    chat_reply: str = ""
    """The text of the chat model's reply, at most 100,000 characters; "" when it was not used."""
    warnings: tuple[CallWarning, ...] = ()
    """What was changed or dropped while the plan was made."""
    failure: MajordomoError | None = field(default=None, compare=False)
    """Why a configured chat model's reply was not used; None otherwise."""
    cached: bool = False
    """Whether the plan came from the cache."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not 1 <= len(self.prompts) <= MAX_PROMPTS:
            raise InvalidRequestError(
                f"a plan must have 1 to {MAX_PROMPTS} prompts; got {len(self.prompts)}",
                field="prompts",
            )
        names = [prompt.name for prompt in self.prompts]
        if len(set(names)) != len(names):
            raise InvalidRequestError(
                f"prompts must have different names; got {', '.join(names)}"[:500], field="prompts"
            )

    @property
    def brief(self) -> str:
        """The brief, cleaned by the classifier."""
        return self.classification.brief

    @property
    def variants(self) -> tuple[NamedPrompt, ...]:
        """One prompt per image.

        The prompts are repeated in turn until there are `config.n`; further images of one prompt
        are called "name-2", "name-3" and so on.
        """
        variants: list[NamedPrompt] = []
        used_names = {prompt.name for prompt in self.prompts}
        for index in range(self.config.n):
            prompt = self.prompts[index % len(self.prompts)]
            number = index // len(self.prompts) + 1
            name = prompt.name
            while number > 1 and name in used_names:
                name, number = f"{prompt.name[:70]}-{number}", number + 1
            used_names.add(name)
            variants.append(NamedPrompt(name, prompt.prompt, prompt.negative_prompt))
        return tuple(variants)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "classification": self.classification.to_dict(),
            "config": asdict(self.config),
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "answered_by": self.answered_by,
            "chat_request": self.chat_request,
            "chat_reply": self.chat_reply,
            "warnings": [asdict(warning) for warning in self.warnings],
            "failure": None if self.failure is None else self.failure.to_dict(),
            "cached": self.cached,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Create a plan from the values of `to_dict`.

        Raises:
            InvalidRequestError: The values are not a saved plan.
        """
        try:
            return cls(
                Classification.from_dict(values["classification"]),
                GenerationConfig(**values["config"]),
                tuple(NamedPrompt(**prompt) for prompt in values["prompts"]),
                str(values["answered_by"]),
                str(values["chat_request"]),
                str(values["chat_reply"]),
                tuple(CallWarning(**warning) for warning in values["warnings"]),
                None if values["failure"] is None else error_from_dict(values["failure"]),
                bool(values["cached"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequestError(
                f"the values are not a saved plan: {type(error).__name__}", field="plan"
            ) from None

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Create a plan from the text of `to_json`.

        Raises:
            InvalidRequestError: The text is not a saved plan.
        """
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise InvalidRequestError("the text is not a saved plan", field="plan") from None
        return cls.from_dict(values)
