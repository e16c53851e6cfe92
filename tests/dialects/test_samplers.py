from __future__ import annotations

import pytest

import majordomo as md
from majordomo.dialects.samplers import (
    _SAMPLERS,
    _SCHEDULERS,
    A1111,
    COMFYUI,
    SDCPP,
    SamplerCatalog,
    SamplerVocabulary,
)
from majordomo.imagegen import Request

VOCABULARIES = (SDCPP, A1111, COMFYUI)


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda v: v.backend)
def test_every_canonical_name_is_translated_or_rejected(vocabulary: SamplerVocabulary) -> None:
    column = VOCABULARIES.index(vocabulary)
    for kind, table in (("sampler", _SAMPLERS), ("scheduler", _SCHEDULERS)):
        for canonical, spellings in table.items():
            request = Request("a", **{kind: canonical})  # type: ignore[arg-type]
            if spellings[column]:
                assert getattr(vocabulary.translate(request), kind) == spellings[column]
            else:
                with pytest.raises(md.UnsupportedError) as caught:
                    vocabulary.translate(request)
                assert caught.value.field == kind


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda v: v.backend)
def test_the_spelling_of_any_backend_is_accepted(
    vocabulary: SamplerVocabulary, column: int
) -> None:
    own = VOCABULARIES.index(vocabulary)
    for kind, table in (("sampler", _SAMPLERS), ("scheduler", _SCHEDULERS)):
        for spellings in table.values():
            # A1111 has both a sampler and a scheduler of the name DDIM.
            if spellings[column] and spellings[own] and spellings[column] != "DDIM":
                request = Request("a", **{kind: spellings[column]})  # type: ignore[arg-type]
                assert getattr(vocabulary.translate(request), kind) == spellings[own]


def test_the_list_of_the_backend_overrides_the_table() -> None:
    older = SamplerCatalog(("euler", "euler_a"), ("discrete",))
    assert (
        SDCPP.translate(Request("a", sampler="Euler a", scheduler="normal"), older).sampler
        == "euler_a"
    )
    with pytest.raises(md.UnsupportedError) as caught:
        SDCPP.translate(Request("a", sampler="euler_cfg_pp"), older)
    assert caught.value.details["known"] == ["euler", "euler_a"]
    assert "euler" in caught.value.details["nearest"]
    extended = SamplerCatalog(("Euler", "My Own Sampler"), (), {"k_mine": "My Own Sampler"})
    assert (
        A1111.translate(Request("a", sampler="my own sampler"), extended).sampler
        == "My Own Sampler"
    )
    assert A1111.translate(Request("a", sampler="k_mine"), extended).sampler == "My Own Sampler"
    with pytest.raises(md.UnsupportedError):
        A1111.translate(Request("a", scheduler="karras"), extended)


def test_an_unknown_name_raises_with_the_nearest_names() -> None:
    with pytest.raises(md.InvalidRequestError, match="dpmpp_2m") as caught:
        COMFYUI.translate(Request("a", sampler="dpmp_2m"))
    assert not isinstance(caught.value, md.UnsupportedError)
    assert (caught.value.field, caught.value.code) == ("sampler", "UNKNOWN_SAMPLER")


def test_only_names_missing_in_some_builds_need_the_catalog() -> None:
    assert not SDCPP.needs_catalog(Request("a", sampler="DPM++ 2M", scheduler="Karras"))
    assert not SDCPP.needs_catalog(Request("a"))
    assert SDCPP.needs_catalog(Request("a", sampler="res_2s"))
    assert SDCPP.needs_catalog(Request("a", scheduler="beta"))
    assert SDCPP.needs_catalog(Request("a", sampler="unknown"))
