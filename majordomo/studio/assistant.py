"""Write plans: prompts and settings from a chat model, or from rules when no model answers.

`PromptAssistant.plan` always returns a plan. Any failure of the chat model (timeout, refusal,
unusable reply, error) falls back to the rules and is recorded in `Plan.failure` and in a warning.
"""

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
from majordomo.studio import prompts
from majordomo.studio.classifier import Classification, classify
from majordomo.studio.errors import chat_model_failure, with_stage
from majordomo.studio.plan import MAX_PROMPTS, RULES, NamedPrompt, Plan
from majordomo.studio.rule_prompts import text_warning, write_prompts
from majordomo.studio.settings import check_settings, resolve_settings
from majordomo.studio.targets import Target, resolve_target
from majordomo.studio.vocabulary import Table, Vocabulary, load_vocabulary
from majordomo.validation import check_seconds

# Characters of a chat model's reply that a plan keeps.
MAX_REPLY_CHARACTERS = 100_000


class PlanSettings(TypedDict, total=False):
    """The user's settings, which take precedence over the brief and the chat model."""

    n: int | None
    """Number of images, 1 to 16."""
    size: str | None
    """`"WIDTHxHEIGHT"` in pixels."""
    aspect: str | None
    """`"WIDTH:HEIGHT"`, instead of `size`."""
    steps: int | None
    """Denoising steps."""
    cfg_scale: float | None
    """Guidance scale (CFG)."""
    sampler: str | None
    """Name of the sampler."""


class PlanCache(Protocol):
    """A cache of plans: JSON text by a key of 64 hexadecimal digits. A dict is a PlanCache."""

    def get(self, key: str, /) -> str | None:
        """Return the text of a key, or None."""

    def __setitem__(self, key: str, value: str, /) -> None: ...


class PromptAssistant:
    """Writes plans with a chat model, and by rules when there is none or it fails.

    Args:
        chat_model: Writes the prompts. None: rules write them.
        target: The family of the image model: "sd1", "sdxl", "flux", "qwen-image", "z-image",
            "hosted" or a Target. "" guesses it from `model` and `provider`.
        model: The id of the image model.
        provider: The name of the image model's provider.
        timeout: Time limit in seconds for the chat model, including one retry when the first reply
            does not have the requested form.
        cache: Keeps the chat model's plans. Plans by rules are not cached.
        vocabulary: Additional vocabulary of the classifier, see `load_vocabulary`.
        overlay: Whether text is written over the images later.
        instructions: Added to the assistant's own instructions for the chat model.

    Raises:
        ConfigurationError: A setting is invalid.
        InvalidRequestError: The target is unknown.
    """

    def __init__(
        self,
        chat_model: llm.Model | None = None,
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
        self.chat_model = chat_model
        self.target: Target = resolve_target(target, model, provider)
        self.vocabulary: Vocabulary = load_vocabulary(vocabulary)
        self.overlay = overlay
        self._timeout = timeout
        self._cache = cache
        self._instructions = instructions

    async def plan(
        self, brief: str | Classification, *, user_id: str = "", **settings: Unpack[PlanSettings]
    ) -> Plan:
        """Return a plan for the brief.

        When the chat model does not answer, refuses or gives an unusable reply, the plan is written
        by rules and `Plan.failure` has the reason.

        Args:
            brief: The brief, or its classification.
            user_id: End-user id for fair queueing, rate limits and accounting.
            **settings: n, size, aspect, steps, cfg_scale, sampler: they take precedence over the
                brief and the chat model.

        Raises:
            InvalidRequestError: The brief or a setting is invalid.
        """
        classification = classify(brief, self.vocabulary) if isinstance(brief, str) else brief
        check_settings(settings)
        if self.chat_model is None:
            return self._plan_by_rules(classification, settings)
        messages = prompts.plan_messages(
            classification,
            self.target,
            settings.get("n") or classification.count,
            self.overlay,
            self._instructions,
        )
        chat_request = llm.dump_messages(messages)
        key = self._cache_key(classification, settings, chat_request)
        cached, warnings = self._read_cache(key)
        if cached is not None:
            return replace(cached, cached=True)
        try:
            plan = await self._plan_by_model(
                self.chat_model, classification, settings, messages, chat_request, user_id
            )
        except MajordomoError as error:
            failure = chat_model_failure(error, classification.brief)
            return self._plan_by_rules(classification, settings, failure, chat_request, warnings)
        except Exception as error:
            failure = chat_model_failure(with_stage(error, "plan"), classification.brief)
            return self._plan_by_rules(classification, settings, failure, chat_request, warnings)
        return replace(plan, warnings=(*warnings, *plan.warnings, *self._write_cache(key, plan)))

    def plan_sync(
        self, brief: str | Classification, *, user_id: str = "", **settings: Unpack[PlanSettings]
    ) -> Plan:
        """Blocking version of `plan`."""
        return portal.run(lambda: self.plan(brief, user_id=user_id, **settings))

    async def _plan_by_model(
        self,
        chat_model: llm.Model,
        classification: Classification,
        settings: PlanSettings,
        messages: list[llm.Message],
        chat_request: str,
        user_id: str,
    ) -> Plan:
        with anyio.move_on_after(self._timeout) as scope:
            reply = await chat_model.generate(
                messages, output=prompts.reply_type(), output_retries=1, user_id=user_id or None
            )
        if scope.cancelled_caught:
            raise DeadlineExceededError(
                f"no reply within {self._timeout:g} s",
                phase="total",
                provider=chat_model.provider,
                model=chat_model.id,
            )
        if reply.finish_reason == "content_filter":
            raise ContentRefusedError(
                "the chat model's reply was filtered",
                provider=chat_model.provider,
                model=chat_model.id,
            )
        values = _parse_reply(reply.output)
        named_prompts, prompt_warnings = self._named_prompts(
            values["prompts"], bool(classification.text)
        )
        config, settings_warnings = resolve_settings(
            self.target, classification, values, settings, len(named_prompts)
        )
        if config.n < len(named_prompts):
            settings_warnings.append(
                CallWarning(
                    "PROMPTS_UNUSED",
                    f"the chat model wrote {len(named_prompts)} prompts for {config.n} images",
                    "n",
                )
            )
        return Plan(
            classification,
            config,
            named_prompts,
            f"{reply.provider or chat_model.provider}/{reply.model or chat_model.id}",
            chat_request,
            reply.text[:MAX_REPLY_CHARACTERS],
            (*reply.warnings, *prompt_warnings, *settings_warnings),
        )

    def _named_prompts(
        self, replied: list[dict[str, Any]], has_text: bool
    ) -> tuple[tuple[NamedPrompt, ...], list[CallWarning]]:
        """Return the chat model's prompts without what the family cannot use.

        Raises BadResponseError (BAD_OUTPUT) when every prompt is empty.
        """
        max_characters = self.target.max_prompt_characters
        warnings: list[CallWarning] = []
        named_prompts: list[NamedPrompt] = []
        used_names: set[str] = set()
        if len(replied) > MAX_PROMPTS:
            warnings.append(
                CallWarning(
                    "PROMPTS_DROPPED",
                    f"the chat model wrote {len(replied)} prompts; only the first {MAX_PROMPTS} are"
                    " used",
                    "prompts",
                )
            )
        for values in replied[:MAX_PROMPTS]:
            prompt = plain_text(values["prompt"], max_characters)
            if not prompt:
                warnings.append(
                    CallWarning("PROMPTS_DROPPED", "the chat model left a prompt empty", "prompts")
                )
                continue
            if len(values["prompt"]) > max_characters:
                warnings.append(
                    CallWarning(
                        "PROMPT_CUT", f"a prompt was cut to {max_characters} characters", "prompt"
                    )
                )
            negative_prompt = plain_text(values["negative_prompt"] or "", max_characters)
            if negative_prompt and not self.target.negative_prompt:
                warnings.append(
                    CallWarning(
                        "NEGATIVE_PROMPT_DROPPED",
                        f"a negative prompt has no effect on {self.target.name}",
                        "negative_prompt",
                    )
                )
                negative_prompt = ""
            name = _unused_name(plain_text(values["name"] or "", 60) or "main", used_names)
            named_prompts.append(NamedPrompt(name, prompt, negative_prompt))
        if not named_prompts:
            raise BadResponseError("the reply has no prompt", code="BAD_OUTPUT")
        if has_text and not self.overlay and not self.target.renders_text:
            warnings.append(text_warning(self.target))
        return tuple(named_prompts), warnings

    def _plan_by_rules(
        self,
        classification: Classification,
        settings: PlanSettings,
        failure: MajordomoError | None = None,
        chat_request: str = "",
        warnings: tuple[CallWarning, ...] = (),
    ) -> Plan:
        prompt, prompt_warnings = write_prompts(classification, self.target, self.overlay)
        config, settings_warnings = resolve_settings(self.target, classification, {}, settings)
        failure_warnings = () if failure is None else (_failure_warning(failure),)
        return Plan(
            classification,
            config,
            (prompt,),
            RULES,
            chat_request,
            "",
            (*warnings, *failure_warnings, *prompt_warnings, *settings_warnings),
            failure,
        )

    def _cache_key(
        self, classification: Classification, settings: PlanSettings, chat_request: str
    ) -> str:
        """Return a hash of everything that the plan depends on."""
        assert self.chat_model is not None
        values = {
            "version": prompts.VERSION,
            "model": [self.chat_model.provider, self.chat_model.id],
            "chat_request": chat_request,
            "target": asdict(self.target),
            "classification": classification.to_dict(),
            "settings": {name: value for name, value in settings.items() if value is not None},
            "overlay": self.overlay,
        }
        return hashlib.sha256(
            json.dumps(values, sort_keys=True, ensure_ascii=True).encode()
        ).hexdigest()

    def _read_cache(self, key: str) -> tuple[Plan | None, tuple[CallWarning, ...]]:
        if self._cache is None:
            return None, ()
        try:
            text = self._cache.get(key)
            return (None if text is None else Plan.from_json(text)), ()
        except (InvalidRequestError, OSError) as error:
            return None, (
                CallWarning("CACHE_UNREADABLE", f"the cached plan cannot be used: {error}"),
            )

    def _write_cache(self, key: str, plan: Plan) -> tuple[CallWarning, ...]:
        if self._cache is None:
            return ()
        try:
            self._cache[key] = plan.to_json()
        except OSError as error:
            return (CallWarning("CACHE_UNWRITABLE", f"the plan could not be cached: {error}"),)
        return ()


def _parse_reply(output: Any) -> dict[str, Any]:
    """Return the reply as plain values, whether it is a pydantic object or a mapping.

    Raises BadResponseError (BAD_OUTPUT).
    """
    from pydantic import BaseModel, ValidationError

    try:
        values = output.model_dump() if isinstance(output, BaseModel) else output
        checked: dict[str, Any] = prompts.reply_type().model_validate(values).model_dump()
    except ValidationError as error:
        raise BadResponseError(
            f"the reply does not have the requested form: {error.error_count()} validation errors",
            code="BAD_OUTPUT",
        ) from None
    return checked


def _unused_name(name: str, used_names: set[str]) -> str:
    """Return `name`, with a number when it is used already, and record it as used."""
    unused, number = name, 2
    while unused in used_names:
        unused, number = f"{name}-{number}", number + 1
    used_names.add(unused)
    return unused


def _failure_warning(failure: MajordomoError) -> CallWarning:
    return CallWarning(
        failure.code, f"the prompts were written by rules: {failure.message}", "chat_model"
    )
