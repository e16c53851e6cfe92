"""Model strings."""

from __future__ import annotations

import pytest

import majordomo as md


@pytest.mark.parametrize(
    "name", ["ollama/gemma3", "ollama:gemma3", "ollama://localhost:11434/gemma3"]
)
def test_every_form_names_the_same_model(name: str) -> None:
    model = md.model(name)
    assert (model.provider, model.id) == ("ollama", "gemma3")


def test_a_model_id_may_contain_slashes_and_colons() -> None:
    assert md.image_model("llamaswap://user-key@gpu-box:8080/author/sdxl:q8").id == "author/sdxl:q8"


def test_repr_hides_the_key() -> None:
    assert "user-key" not in repr(md.image_model("llamaswap://user-key@gpu-box:8080/sdxl"))


def test_an_unknown_provider_is_a_configuration_error() -> None:
    with pytest.raises(md.ConfigurationError):
        md.model("nosuchprovider/x")
