import pytest
import safetensors.torch
import torch
from helpers import registry_sources, tiny

from lightning_fusion.errors import InputError
from lightning_fusion.registry.publish import EXPERT_METADATA, describe_source, restore_expert


def test_a_description_needs_no_file_system_and_gives_the_expert_back():
    given = registry_sources.expert(hidden=7)
    card, contents = describe_source(
        given, registry_sources.data(), "a", [1.0], {"class_path": "helpers.tiny.Net", "init_args": {"hidden": 7}}
    )
    assert set(contents) == {"centroids.safetensors", "encoder.safetensors", "head.safetensors"}
    assert {name.split(".")[0]: len(content) for name, content in contents.items()} == {
        part: file["bytes"] for part, file in card.files.items()
    }
    parts = {name: safetensors.torch.load(content) for name, content in contents.items()}
    facts = {name: getattr(card, name) for name in EXPERT_METADATA}
    weights = parts["encoder.safetensors"] | parts["head.safetensors"]
    drawn = torch.get_rng_state()
    found = restore_expert(card.network, weights, "the card", **facts)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert found.fingerprint == given.fingerprint == card.fingerprint and isinstance(found.network, tiny.Net)
    half = restore_expert(card.network, parts["encoder.safetensors"], "the card", whole=False, **facts)
    x = torch.randn(5, 4)
    assert torch.equal(half.forward_with_representations(x)[1], given.forward_with_representations(x)[1])


def test_raw_input_without_recorded_preprocessing_is_rejected():
    with pytest.raises(InputError, match="a takes raw input and records no preprocessing"):
        describe_source(
            registry_sources.expert(raw_input=True), registry_sources.data(), "a", statistics=[0.0], network=tiny.Net
        )
