"""From a brief to finished files: a classifier, a prompt assistant, the pipeline of all stages, and its runs as jobs.

Importing this module loads neither Pillow nor pydantic: every name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Where each public name lives. No module here has the name of a function, which importing it would hide.
_HOME = {
    "majordomo.studio.classifier": "Classification Found classify",
    "majordomo.studio.vocabulary": "Vocabulary load_vocabulary",
    "majordomo.studio.targets": "TARGETS Target target_for",
    "majordomo.studio.plan": "GenerationConfig NamedPrompt Plan",
    "majordomo.studio.assistant": "PlanCache PromptAssistant",
    "majordomo.studio.moderation": "Moderator Verdict VisionModerator WordList",
    "majordomo.studio.result": "Outcome Picture",
    "majordomo.studio.events": "Classified DerivativeReady Done PictureFailed PictureReady PlanReady Progress StudioEvent",
    "majordomo.studio.studio": "Stages Studio StudioStream SyncStudioStream",
    "majordomo.studio.executor": "InProcess JobEngine Order",
    "majordomo.studio.job_record": "Status",
    "majordomo.studio.job_store": "Store",
    "majordomo.studio.jobs": "Jobs",
}
_NAMES = {name: home for home, names in _HOME.items() for name in names.split()}

__all__ = [
    "TARGETS",
    "Classification",
    "Classified",
    "DerivativeReady",
    "Done",
    "Found",
    "GenerationConfig",
    "InProcess",
    "JobEngine",
    "Jobs",
    "Moderator",
    "NamedPrompt",
    "Order",
    "Outcome",
    "Picture",
    "PictureFailed",
    "PictureReady",
    "Plan",
    "PlanCache",
    "PlanReady",
    "Progress",
    "PromptAssistant",
    "Stages",
    "Status",
    "Store",
    "Studio",
    "StudioEvent",
    "StudioStream",
    "SyncStudioStream",
    "Target",
    "Verdict",
    "VisionModerator",
    "Vocabulary",
    "WordList",
    "classify",
    "load_vocabulary",
    "target_for",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'majordomo.studio' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from majordomo.studio.assistant import PlanCache, PromptAssistant
    from majordomo.studio.classifier import Classification, Found, classify
    from majordomo.studio.events import Classified, DerivativeReady, Done, PictureFailed, PictureReady, PlanReady, Progress, StudioEvent
    from majordomo.studio.executor import InProcess, JobEngine, Order
    from majordomo.studio.job_record import Status
    from majordomo.studio.job_store import Store
    from majordomo.studio.jobs import Jobs
    from majordomo.studio.moderation import Moderator, Verdict, VisionModerator, WordList
    from majordomo.studio.plan import GenerationConfig, NamedPrompt, Plan
    from majordomo.studio.result import Outcome, Picture
    from majordomo.studio.studio import Stages, Studio, StudioStream, SyncStudioStream
    from majordomo.studio.targets import TARGETS, Target, target_for
    from majordomo.studio.vocabulary import Vocabulary, load_vocabulary
