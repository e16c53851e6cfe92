"""One vocabulary of samplers and schedulers, and how each kind of backend spells it.

Needed because a wrong name is no error where it matters: sd-server takes its default, A1111 from 1.9 its first sampler, both without a
word. Sources: stable-diffusion.cpp at 97d2990, A1111 1.6-1.10 `modules/sd_samplers*.py`, ComfyUI's KSampler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from majordomo.errors import InvalidRequestError, UnsupportedError
from majordomo.imagegen import Request

# canonical: (stable-diffusion.cpp, A1111, ComfyUI); "" where there is none
_SAMPLERS = {
    "euler": ("euler", "Euler", "euler"),
    "euler_a": ("euler_a", "Euler a", "euler_ancestral"),
    "heun": ("heun", "Heun", "heun"),
    "dpm2": ("dpm2", "DPM2", "dpm_2"),
    "dpm2_a": ("", "DPM2 a", "dpm_2_ancestral"),
    "dpmpp_2s_a": ("dpm++2s_a", "DPM++ 2S a", "dpmpp_2s_ancestral"),
    "dpmpp_2m": ("dpm++2m", "DPM++ 2M", "dpmpp_2m"),
    "dpmpp_2m_v2": ("dpm++2mv2", "", ""),
    "dpmpp_sde": ("", "DPM++ SDE", "dpmpp_sde"),
    "dpmpp_2m_sde": ("dpm++2m_sde", "DPM++ 2M SDE", "dpmpp_2m_sde"),
    "dpmpp_2m_sde_bt": ("dpm++2m_sde_bt", "", "dpmpp_2m_sde_gpu"),
    "dpmpp_3m_sde": ("", "DPM++ 3M SDE", "dpmpp_3m_sde"),
    "lms": ("lms", "LMS", "lms"),
    "ddim": ("ddim_trailing", "DDIM", "ddim"),
    "uni_pc": ("", "UniPC", "uni_pc"),
    "lcm": ("lcm", "LCM", "lcm"),
    "tcd": ("tcd", "", ""),
    "ipndm": ("ipndm", "", "ipndm"),
    "ipndm_v": ("ipndm_v", "", "ipndm_v"),
    "deis": ("", "", "deis"),
    "res_multistep": ("res_multistep", "", "res_multistep"),
    "res_2s": ("res_2s", "", ""),
    "er_sde": ("er_sde", "", "er_sde"),
    "euler_cfg_pp": ("euler_cfg_pp", "", "euler_cfg_pp"),
    "euler_a_cfg_pp": ("euler_a_cfg_pp", "", "euler_ancestral_cfg_pp"),
    "gradient_estimation": ("euler_ge", "", "gradient_estimation"),
}
_SCHEDULERS = {
    "normal": ("discrete", "Normal", "normal"),
    "karras": ("karras", "Karras", "karras"),
    "exponential": ("exponential", "Exponential", "exponential"),
    "sgm_uniform": ("sgm_uniform", "SGM Uniform", "sgm_uniform"),
    "simple": ("simple", "Simple", "simple"),
    "beta": ("beta", "Beta", "beta"),
    "kl_optimal": ("kl_optimal", "KL Optimal", "kl_optimal"),
    "ays": ("ays", "Align Your Steps", ""),
    "ddim_uniform": ("", "DDIM", "ddim_uniform"),
    "gits": ("gits", "", ""),
    "smoothstep": ("smoothstep", "", ""),
    "lcm": ("lcm", "", ""),
    "bong_tangent": ("bong_tangent", "", ""),
    "flux": ("flux", "", ""),
    "flux2": ("flux2", "", ""),
    "ltx2": ("ltx2", "", ""),
    "logit_normal": ("logit_normal", "", ""),
    "linear_quadratic": ("", "", "linear_quadratic"),
    "automatic": ("", "Automatic", ""),
    "uniform": ("", "Uniform", ""),
    "polyexponential": ("", "Polyexponential", ""),
}


def _key(name: str) -> str:
    """Names that differ only in case, spaces, hyphens and `++` are one: "DPM++ 2M SDE" is dpmpp_2m_sde."""
    word = re.sub(r"[\s-]+", "_", name.strip().lower().replace("++", "pp_"))
    return re.sub(r"_+", "_", word).removeprefix("k_")


def _readings(table: Mapping[str, tuple[str, str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in (2, 1, 0):
        for canonical, spelt in table.items():
            if spelt[column]:
                found[_key(spelt[column])] = canonical
    return found | {_key(canonical): canonical for canonical in table}


@dataclass(frozen=True, slots=True)
class SamplerCatalog:
    """What a backend says it has, each name in its own spelling; None: it was not, or could not be, asked."""

    samplers: tuple[str, ...] | None = None
    schedulers: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = field(
        default_factory=dict
    )  # other names of its samplers, to the name in `samplers`
    labels: Mapping[str, str] = field(default_factory=dict)  # the same of its schedulers


@dataclass(frozen=True, slots=True)
class SamplerVocabulary:
    """How one kind of backend spells the vocabulary."""

    backend: str
    samplers: Mapping[str, str]
    schedulers: Mapping[str, str]
    certain: frozenset[str] = frozenset()  # canonical names that every build has: no need to ask

    def needs_catalog(self, request: Request) -> bool:
        """Whether only the backend itself can tell if it has this sampler and scheduler."""
        pairs = ((request.sampler, _SAMPLER_READINGS), (request.scheduler, _SCHEDULER_READINGS))
        return any(
            name and readings.get(_key(name)) not in self.certain for name, readings in pairs
        )

    def translate(self, request: Request, lists: SamplerCatalog | None = None) -> Request:
        """The request with sampler and scheduler as this backend spells them.

        Read are canonical names, any backend's spelling, and whatever stands in the backend's own lists. Raises UnsupportedError for a
        name that this backend lacks, InvalidRequestError for one nobody knows, both with the nearest names.
        """
        lists = lists or SamplerCatalog()
        sampler, scheduler = request.sampler, request.scheduler
        if sampler:
            name = lists.aliases.get(sampler, sampler)
            sampler = self._spell("sampler", name, self.samplers, _SAMPLER_READINGS, lists.samplers)
        if scheduler:
            name = lists.labels.get(scheduler, scheduler)
            scheduler = self._spell(
                "scheduler", name, self.schedulers, _SCHEDULER_READINGS, lists.schedulers
            )
        return replace(request, sampler=sampler, scheduler=scheduler)

    def _spell(
        self,
        kind: str,
        name: str,
        table: Mapping[str, str],
        readings: Mapping[str, str],
        known: Sequence[str] | None,
    ) -> str:
        own = tuple(table.values()) if known is None else tuple(known)
        if name in own:
            return name
        canonical = readings.get(_key(name))
        spelt = table.get(canonical, "") if canonical else ""
        if spelt and spelt in own:
            return spelt
        same = next((other for other in own if _key(other) == _key(name)), None)
        if same is not None:
            return same
        near = self._near(canonical or name, table, own)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        details = {"known": list(own), "nearest": near}
        if canonical:
            raise UnsupportedError(
                f"{self.backend} has no {kind} {name}{hint}",
                field=kind,
                code=f"UNKNOWN_{kind.upper()}",
                details=details,
            )
        raise InvalidRequestError(
            f"there is no {kind} {name!r}{hint}",
            field=kind,
            code=f"UNKNOWN_{kind.upper()}",
            details=details,
        )

    @staticmethod
    def _near(name: str, table: Mapping[str, str], own: Sequence[str]) -> list[str]:
        """Canonical names where there is one, for what this backend really has."""
        import difflib  # only when somebody has misspelled

        words = {_key(canonical): canonical for canonical, spelt in table.items() if spelt in own}
        named = {table[canonical] for canonical in words.values()}
        words |= {_key(other): other for other in own if other not in named}
        return [words[key] for key in difflib.get_close_matches(_key(name), words, 3, 0.4)]


def _column(table: Mapping[str, tuple[str, str, str]], column: int) -> Mapping[str, str]:
    return MappingProxyType(
        {canonical: spelt[column] for canonical, spelt in table.items() if spelt[column]}
    )


_SAMPLER_READINGS = _readings(_SAMPLERS)
_SCHEDULER_READINGS = _readings(_SCHEDULERS)


def canonical_sampler(name: str) -> str | None:
    """The canonical name of a sampler in anybody's spelling; None for one that nobody knows."""
    return _SAMPLER_READINGS.get(_key(name))


# All but the names that came in after 2025, by the dates of the wire's history
_CERTAIN = frozenset(
    (
        "euler",
        "euler_a",
        "heun",
        "dpm2",
        "dpmpp_2s_a",
        "dpmpp_2m",
        "dpmpp_2m_v2",
        "ddim",
        "lcm",
        "tcd",
        "ipndm",
        "ipndm_v",
        "normal",
        "karras",
        "exponential",
        "sgm_uniform",
        "simple",
        "ays",
        "gits",
        "smoothstep",
    )
)
SDCPP = SamplerVocabulary(
    "stable-diffusion.cpp", _column(_SAMPLERS, 0), _column(_SCHEDULERS, 0), _CERTAIN
)
A1111 = SamplerVocabulary("AUTOMATIC1111", _column(_SAMPLERS, 1), _column(_SCHEDULERS, 1))
COMFYUI = SamplerVocabulary("ComfyUI", _column(_SAMPLERS, 2), _column(_SCHEDULERS, 2))
