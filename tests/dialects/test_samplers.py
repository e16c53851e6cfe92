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

TONGUES = (SDCPP, A1111, COMFYUI)


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda t: t.backend)
def test_every_canonical_name_is_spelt_or_refused(tongue: SamplerVocabulary) -> None:
    column = TONGUES.index(tongue)
    for kind, table in (("sampler", _SAMPLERS), ("scheduler", _SCHEDULERS)):
        for canonical, spelt in table.items():
            request = Request("a", **{kind: canonical})  # type: ignore[arg-type]
            if spelt[column]:
                assert getattr(tongue.translate(request), kind) == spelt[column]
            else:
                with pytest.raises(md.UnsupportedError) as caught:
                    tongue.translate(request)
                assert caught.value.field == kind


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("tongue", TONGUES, ids=lambda t: t.backend)
def test_any_backends_spelling_is_understood(tongue: SamplerVocabulary, column: int) -> None:
    own = TONGUES.index(tongue)
    for kind, table in (("sampler", _SAMPLERS), ("scheduler", _SCHEDULERS)):
        for spelt in table.values():
            if (
                spelt[column] and spelt[own] and spelt[column] != "DDIM"
            ):  # A1111 calls a sampler and a scheduler so
                assert (
                    getattr(tongue.translate(Request("a", **{kind: spelt[column]})), kind)
                    == spelt[own]
                )  # type: ignore[arg-type]


def test_the_backends_own_list_decides() -> None:
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


def test_a_name_nobody_knows_is_a_bad_request_with_the_nearest() -> None:
    with pytest.raises(md.InvalidRequestError, match="dpmpp_2m") as caught:
        COMFYUI.translate(Request("a", sampler="dpmp_2m"))
    assert not isinstance(caught.value, md.UnsupportedError)
    assert (caught.value.field, caught.value.code) == ("sampler", "UNKNOWN_SAMPLER")


def test_only_names_that_not_every_build_has_need_asking() -> None:
    assert not SDCPP.needs_catalog(Request("a", sampler="DPM++ 2M", scheduler="Karras"))
    assert not SDCPP.needs_catalog(Request("a"))
    assert SDCPP.needs_catalog(Request("a", sampler="res_2s"))
    assert SDCPP.needs_catalog(Request("a", scheduler="beta"))
    assert SDCPP.needs_catalog(Request("a", sampler="nobody"))
