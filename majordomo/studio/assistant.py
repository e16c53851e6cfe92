"""From a brief to prompts and settings: asked of a chat model, made by rules where none answers, and saying which."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from typing import Any, Protocol, TypedDict, Unpack

import anyio

from majordomo import llm
from majordomo.concurrency import portal
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ContentRefusedError,
    DeadlineExceededError,
    InvalidRequestError,
    MajordomoError,
    plain_text,
)
from majordomo.studio import prompts as asking
from majordomo.studio.classifier import Classification, classify
from majordomo.studio.errors import model_failure, with_stage
from majordomo.studio.plan import MOST_PROMPTS, RULES, NamedPrompt, Plan
from majordomo.studio.rule_prompts import not_written, write_prompts
from majordomo.studio.settings import check_settings, resolve_settings
from majordomo.studio.targets import Target, named_target
from majordomo.studio.vocabulary import Table, Vocabulary, load_vocabulary
from majordomo.validation import check_seconds

ANSWER_LIMIT = 100_000  # characters of an answer that a plan keeps


class Settings(TypedDict, total=False):
    """What a caller may settle over the brief and the model."""

    n: int | None
    size: str | None
    aspect: str | None
    steps: int | None
    cfg_scale: float | None
    sampler: str | None


class PlanCache(Protocol):
    """Where answers are kept: JSON text by a key of 64 hexadecimal digits. A dict is one."""

    def get(self, key: str, /) -> str | None: ...

    def __setitem__(self, key: str, value: str, /) -> None: ...


class PromptAssistant:
    """Makes plans. `target` is a family's name ("sd1", "sdxl", "flux", "qwen-image", "z-image", "hosted"), a Target, or "" to guess it from
    `model`, the id of the image model.

    `timeout` bounds the chat model's answer in seconds, one further question included, which is asked when the first answer does not fit.
    `overlay`: texts are written over the images later. `instructions` are added to those of the assistant. `vocabulary` is the
    classifier's. Answers are kept in `cache`; drafts by rules are not.

    Raises ConfigurationError or InvalidRequestError for settings that make no sense.
    """

    def __init__(
        self,
        chat: llm.Model | None = None,
        target: str | Target = "",
        *,
        model: str = "",
        provider: str = "",
        timeout: float = 60.0,
        cache: PlanCache | None = None,
        vocabulary: Vocabulary | Table | str | os.PathLike[str] | None = None,
        overlay: bool = False,
        instructions: str = "",
    ) -> None:
        check_seconds("timeout", timeout)
        self.chat = chat
        self.target: Target = named_target(target, model, provider)
        self.vocabulary: Vocabulary = load_vocabulary(vocabulary)
        self.overlay = overlay
        self._timeout = timeout
        self._cache = cache
        self._instructions = instructions

    async def plan(
        self, brief: str | Classification, *, user_id: str = "", **settings: Unpack[Settings]
    ) -> Plan:
        """A plan for the brief, always: where the chat model does not answer, refuses or answers nonsense, `failure` says so.

        Raises InvalidRequestError for a brief or settings that cannot be.
        """
        classification = classify(brief, self.vocabulary) if isinstance(brief, str) else brief
        check_settings(settings)
        if self.chat is None:
            return self._by_rules(classification, settings)
        question = asking.messages(
            classification,
            self.target,
            settings.get("n") or classification.count,
            self.overlay,
            self._instructions,
        )
        asked = llm.dump_messages(question)
        key = self._key(classification, settings, asked)
        kept, warnings = self._kept(key)
        if kept is not None:
            return replace(kept, cached=True)
        try:
            plan = await self._asked(self.chat, classification, settings, question, asked, user_id)
        except MajordomoError as error:
            return self._by_rules(
                classification,
                settings,
                model_failure(error, classification.brief),
                asked,
                warnings,
            )
        except Exception as error:
            failure = model_failure(with_stage(error, "plan"), classification.brief)
            return self._by_rules(classification, settings, failure, asked, warnings)
        return replace(plan, warnings=(*warnings, *plan.warnings, *self._keep(key, plan)))

    def plan_sync(
        self, brief: str | Classification, *, user_id: str = "", **settings: Unpack[Settings]
    ) -> Plan:
        return portal.run(lambda: self.plan(brief, user_id=user_id, **settings))

    async def _asked(
        self,
        chat: llm.Model,
        classification: Classification,
        settings: Settings,
        question: list[llm.Message],
        asked: str,
        user_id: str,
    ) -> Plan:
        with anyio.move_on_after(self._timeout) as scope:
            reply = await chat.generate(
                question, output=asking.answer_type(), output_retries=1, user_id=user_id or None
            )
        if scope.cancelled_caught:
            raise DeadlineExceededError(
                f"no answer within {self._timeout:g} s",
                phase="total",
                provider=chat.provider,
                model=chat.id,
            )
        if reply.finish_reason == "content_filter":
            raise ContentRefusedError(
                "the chat model's answer was filtered", provider=chat.provider, model=chat.id
            )
        answer = _checked(reply.output)
        prompts, warnings = self._prompts(answer["prompts"], bool(classification.text))
        config, more = resolve_settings(self.target, classification, answer, settings, len(prompts))
        if config.n < len(prompts):
            more.append(
                CallWarning(
                    "PROMPTS_UNUSED",
                    f"{len(prompts)} prompts were written for {config.n} images",
                    "n",
                )
            )
        return Plan(
            classification,
            config,
            prompts,
            f"{reply.provider or chat.provider}/{reply.model or chat.id}",
            asked,
            reply.text[:ANSWER_LIMIT],
            (*reply.warnings, *warnings, *more),
        )

    def _prompts(
        self, given: list[dict[str, Any]], has_text: bool
    ) -> tuple[tuple[NamedPrompt, ...], list[CallWarning]]:
        """The model's prompts without what the family cannot use. Raises BadResponseError (BAD_OUTPUT) when none says anything."""
        warnings: list[CallWarning] = []
        prompts: list[NamedPrompt] = []
        names: set[str] = set()
        if len(given) > MOST_PROMPTS:
            warnings.append(
                CallWarning(
                    "PROMPTS_DROPPED",
                    f"the model wrote {len(given)} prompts; {MOST_PROMPTS} were kept",
                    "prompts",
                )
            )
        for told in given[:MOST_PROMPTS]:
            words = plain_text(told["prompt"], self.target.longest)
            if not words:
                warnings.append(
                    CallWarning("PROMPTS_DROPPED", "the model left a prompt empty", "prompts")
                )
                continue
            if len(told["prompt"]) > self.target.longest:
                warnings.append(
                    CallWarning(
                        "PROMPT_CUT",
                        f"a prompt was cut to {self.target.longest} characters",
                        "prompt",
                    )
                )
            negative = plain_text(told["negative_prompt"] or "", self.target.longest)
            if negative and not self.target.negative:
                warnings.append(
                    CallWarning(
                        "NEGATIVE_PROMPT_DROPPED",
                        f"it has no effect on {self.target.name}",
                        "negative_prompt",
                    )
                )
                negative = ""
            name = _free(plain_text(told["name"] or "", 60) or "main", names)
            prompts.append(NamedPrompt(name, words, negative))
        if not prompts:
            raise BadResponseError("the answer has no prompt", code="BAD_OUTPUT")
        if has_text and not self.overlay and not self.target.writes:
            warnings.append(not_written(self.target))
        return tuple(prompts), warnings

    def _by_rules(
        self,
        classification: Classification,
        settings: Settings,
        failure: MajordomoError | None = None,
        asked: str = "",
        before: tuple[CallWarning, ...] = (),
    ) -> Plan:
        prompt, warnings = write_prompts(classification, self.target, self.overlay)
        config, more = resolve_settings(self.target, classification, {}, settings)
        said = () if failure is None else (_fell_back(failure),)
        return Plan(
            classification,
            config,
            (prompt,),
            RULES,
            asked,
            "",
            (*before, *said, *warnings, *more),
            failure,
        )

    def _key(self, classification: Classification, settings: Settings, asked: str) -> str:
        """Whatever has a part in the answer, in one spelling."""
        assert self.chat is not None
        told = {
            "version": asking.VERSION,
            "model": [self.chat.provider, self.chat.id],
            "asked": asked,
            "target": asdict(self.target),
            "classification": classification.to_dict(),
            "settings": {name: value for name, value in settings.items() if value is not None},
            "overlay": self.overlay,
        }
        return hashlib.sha256(
            json.dumps(told, sort_keys=True, ensure_ascii=True).encode()
        ).hexdigest()

    def _kept(self, key: str) -> tuple[Plan | None, tuple[CallWarning, ...]]:
        if self._cache is None:
            return None, ()
        try:
            text = self._cache.get(key)
            return (None if text is None else Plan.from_json(text)), ()
        except (InvalidRequestError, OSError) as error:
            return None, (
                CallWarning("CACHE_UNREADABLE", f"the kept plan cannot be used: {error}"),
            )

    def _keep(self, key: str, plan: Plan) -> tuple[CallWarning, ...]:
        if self._cache is None:
            return ()
        try:
            self._cache[key] = plan.to_json()
        except OSError as error:
            return (CallWarning("CACHE_UNWRITABLE", f"the plan was not kept: {error}"),)
        return ()


def _checked(output: Any) -> dict[str, Any]:
    """The answer as plain values, whatever kind of model gave it. Raises BadResponseError (BAD_OUTPUT)."""
    from pydantic import BaseModel, ValidationError

    try:
        values = output.model_dump() if isinstance(output, BaseModel) else output
        told: dict[str, Any] = asking.answer_type().model_validate(values).model_dump()
    except ValidationError as error:
        raise BadResponseError(
            f"the answer is not what was asked for: {error.error_count()} mistakes",
            code="BAD_OUTPUT",
        ) from None
    return told


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    taken.add(free)
    return free


def _fell_back(failure: MajordomoError) -> CallWarning:
    return CallWarning(failure.code, f"the prompts are the rules' own: {failure.message}", "chat")
