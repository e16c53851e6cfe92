"""Canonical names of samplers and schedulers, and the spelling of each kind of backend.

Names are checked here because some backends accept an unknown name silently: sd-server then uses
its default sampler, and A1111 (from version 1.9) uses its first sampler.

Sources: stable-diffusion.cpp at 97d2990, A1111 1.6-1.10 `modules/sd_samplers*.py`, ComfyUI's
KSampler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from majordomo.errors import InvalidRequestError, UnsupportedError
from majordomo.imagegen import Request

# Canonical name: (stable-diffusion.cpp, A1111, ComfyUI); "" when the backend has none.
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


def _normalize(name: str) -> str:
    """Normalize case, spaces, hyphens and `++`: "DPM++ 2M SDE" becomes "dpmpp_2m_sde"."""
    underscored = re.sub(r"[\s-]+", "_", name.strip().lower().replace("++", "pp_"))
    return re.sub(r"_+", "_", underscored).removeprefix("k_")


def _canonical_names(table: Mapping[str, tuple[str, str, str]]) -> dict[str, str]:
    """Map every normalized spelling to its canonical name.

    An ambiguous spelling belongs to the canonical name itself first, then to the leftmost column.
    """
    names: dict[str, str] = {}
    for column in (2, 1, 0):
        for canonical, spellings in table.items():
            if spellings[column]:
                names[_normalize(spellings[column])] = canonical
    return names | {_normalize(canonical): canonical for canonical in table}


@dataclass(frozen=True, slots=True)
class SamplerCatalog:
    """The samplers and schedulers that a backend lists, in its own spelling."""

    samplers: tuple[str, ...] | None = None
    """Names of its samplers; None when the list was not requested or is not available."""
    schedulers: tuple[str, ...] | None = None
    """Names of its schedulers; None when the list was not requested or is not available."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of its samplers, mapped to the name in `samplers`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Other names of its schedulers, mapped to the name in `schedulers`."""


@dataclass(frozen=True, slots=True)
class SamplerVocabulary:
    """The spelling that one kind of backend uses for samplers and schedulers."""

    backend: str
    """Name of the backend in error messages."""
    samplers: Mapping[str, str]
    """Canonical sampler name to the backend's spelling."""
    schedulers: Mapping[str, str]
    """Canonical scheduler name to the backend's spelling."""
    certain: frozenset[str] = frozenset()
    """Canonical names that every build of the backend has, so that no list is needed."""

    def needs_catalog(self, request: Request) -> bool:
        """Return whether the backend's own list is needed to know if it has these names."""
        pairs = ((request.sampler, _CANONICAL_SAMPLERS), (request.scheduler, _CANONICAL_SCHEDULERS))
        return any(
            name and canonical_names.get(_normalize(name)) not in self.certain
            for name, canonical_names in pairs
        )

    def translate(self, request: Request, catalog: SamplerCatalog | None = None) -> Request:
        """Return the request with sampler and scheduler in the spelling of this backend.

        Accepted are canonical names, the spelling of any backend, and every name in the backend's
        own `catalog`. Raises UnsupportedError for a name that this backend lacks and
        InvalidRequestError for an unknown name, both with the nearest names.
        """
        catalog = catalog or SamplerCatalog()
        sampler, scheduler = request.sampler, request.scheduler
        if sampler:
            name = catalog.aliases.get(sampler, sampler)
            sampler = self._translate_name(
                "sampler", name, self.samplers, _CANONICAL_SAMPLERS, catalog.samplers
            )
        if scheduler:
            name = catalog.labels.get(scheduler, scheduler)
            scheduler = self._translate_name(
                "scheduler", name, self.schedulers, _CANONICAL_SCHEDULERS, catalog.schedulers
            )
        return replace(request, sampler=sampler, scheduler=scheduler)

    def _translate_name(
        self,
        kind: str,
        name: str,
        spellings: Mapping[str, str],
        canonical_names: Mapping[str, str],
        listed: Sequence[str] | None,
    ) -> str:
        available = tuple(spellings.values()) if listed is None else tuple(listed)
        if name in available:
            return name
        canonical = canonical_names.get(_normalize(name))
        spelling = spellings.get(canonical, "") if canonical else ""
        if spelling and spelling in available:
            return spelling
        same = next((other for other in available if _normalize(other) == _normalize(name)), None)
        if same is not None:
            return same
        nearest = self._nearest(canonical or name, spellings, available)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        details = {"known": list(available), "nearest": nearest}
        if canonical:
            raise UnsupportedError(
                f"{self.backend} has no {kind} {name}{hint}",
                field=kind,
                code=f"UNKNOWN_{kind.upper()}",
                details=details,
            )
        raise InvalidRequestError(
            f"unknown {kind} {name!r}{hint}",
            field=kind,
            code=f"UNKNOWN_{kind.upper()}",
            details=details,
        )

    @staticmethod
    def _nearest(name: str, spellings: Mapping[str, str], available: Sequence[str]) -> list[str]:
        """Return up to three similar names that this backend has, canonical ones if possible."""
        # Imported here because it is only needed for misspelled names.
        import difflib

        suggestions = {
            _normalize(canonical): canonical
            for canonical, spelling in spellings.items()
            if spelling in available
        }
        covered = {spellings[canonical] for canonical in suggestions.values()}
        suggestions |= {_normalize(other): other for other in available if other not in covered}
        matches = difflib.get_close_matches(_normalize(name), suggestions, 3, 0.4)
        return [suggestions[key] for key in matches]


def _spellings(table: Mapping[str, tuple[str, str, str]], column: int) -> Mapping[str, str]:
    """Map canonical names to the spelling in this column."""
    return MappingProxyType(
        {
            canonical: spellings[column]
            for canonical, spellings in table.items()
            if spellings[column]
        }
    )


_CANONICAL_SAMPLERS = _canonical_names(_SAMPLERS)
_CANONICAL_SCHEDULERS = _canonical_names(_SCHEDULERS)


def canonical_sampler(name: str) -> str | None:
    """Return the canonical name of a sampler in any spelling, or None for an unknown name."""
    return _CANONICAL_SAMPLERS.get(_normalize(name))


# All names except those that stable-diffusion.cpp added after 2025, by the dates in its history.
_IN_EVERY_SDCPP_BUILD = frozenset(
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
    "stable-diffusion.cpp",
    _spellings(_SAMPLERS, 0),
    _spellings(_SCHEDULERS, 0),
    _IN_EVERY_SDCPP_BUILD,
)
A1111 = SamplerVocabulary("AUTOMATIC1111", _spellings(_SAMPLERS, 1), _spellings(_SCHEDULERS, 1))
COMFYUI = SamplerVocabulary("ComfyUI", _spellings(_SAMPLERS, 2), _spellings(_SCHEDULERS, 2))
