"""Turn a brief into finished image files.

The package has a brief classifier, a prompt assistant, a pipeline of all stages (`Studio`) and
pipeline runs as background jobs (`Jobs`).

Importing this package loads neither Pillow nor pydantic: each public name is imported when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The module that defines each public name. No module has the name of a public function, because
# importing the module would replace the function in this namespace.
_MODULES = {
    "majordomo.studio.classifier": "Classification Found classify",
    "majordomo.studio.vocabulary": "Vocabulary load_vocabulary",
    "majordomo.studio.targets": "TARGETS Target target_for",
    "majordomo.studio.plan": "GenerationConfig NamedPrompt Plan",
    "majordomo.studio.assistant": "PlanCache PromptAssistant",
    "majordomo.studio.moderation": "Moderator Verdict VisionModerator WordList",
    "majordomo.studio.result": "StudioImage StudioResult",
    "majordomo.studio.events": (
        "Classified DerivativeReady ImageFailed ImageFinished ImageProgress PlanReady StudioDone"
        " StudioEvent"
    ),
    "majordomo.studio.studio": "StageOverrides Studio StudioStream SyncStudioStream",
    "majordomo.studio.executor": "InProcessEngine JobEngine JobOrder",
    "majordomo.studio.job_record": "StudioJobStatus",
    "majordomo.studio.job_store": "JobStore",
    "majordomo.studio.jobs": "Jobs",
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "TARGETS",
    "Classification",
    "Classified",
    "DerivativeReady",
    "Found",
    "GenerationConfig",
    "ImageFailed",
    "ImageFinished",
    "ImageProgress",
    "InProcessEngine",
    "JobEngine",
    "JobOrder",
    "JobStore",
    "Jobs",
    "Moderator",
    "NamedPrompt",
    "Plan",
    "PlanCache",
    "PlanReady",
    "PromptAssistant",
    "StageOverrides",
    "Studio",
    "StudioDone",
    "StudioEvent",
    "StudioImage",
    "StudioJobStatus",
    "StudioResult",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from majordomo.studio.assistant import PlanCache, PromptAssistant
    from majordomo.studio.classifier import Classification, Found, classify
    from majordomo.studio.events import (
        Classified,
        DerivativeReady,
        ImageFailed,
        ImageFinished,
        ImageProgress,
        PlanReady,
        StudioDone,
        StudioEvent,
    )
    from majordomo.studio.executor import InProcessEngine, JobEngine, JobOrder
    from majordomo.studio.job_record import StudioJobStatus
    from majordomo.studio.job_store import JobStore
    from majordomo.studio.jobs import Jobs
    from majordomo.studio.moderation import Moderator, Verdict, VisionModerator, WordList
    from majordomo.studio.plan import GenerationConfig, NamedPrompt, Plan
    from majordomo.studio.result import StudioImage, StudioResult
    from majordomo.studio.studio import StageOverrides, Studio, StudioStream, SyncStudioStream
    from majordomo.studio.targets import TARGETS, Target, target_for
    from majordomo.studio.vocabulary import Vocabulary, load_vocabulary
else:
    # Type checkers do not see this function, so that they reject a misspelled name.
    def __getattr__(name: str) -> Any:
        if name not in _NAMES:
            raise AttributeError(f"module 'majordomo.studio' has no attribute {name!r}")
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
