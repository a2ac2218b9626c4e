from functools import partial

import pytest
import torch
from helpers import registry_sources, tiny

from lightning_fusion import ExpertRegistry
from lightning_fusion.errors import InputError
from lightning_fusion.registry.quantization import SCALE, dequantize, quantize
from lightning_fusion.registry.summaries import labeled_batches


def test_matrices_and_kernels_are_rounded_by_row_and_all_else_stays():
    weights = {
        "conv.weight": torch.randn(5, 3, 3, 3) * torch.logspace(-3, 3, 5)[:, None, None, None],
        "norm.running_var": torch.rand(5),
        "norm.num_batches_tracked": torch.tensor(7),
        "empty.weight": torch.zeros(2, 4),
    }
    stored = quantize(weights)
    assert stored["conv.weight"].dtype == torch.int8 and stored[f"conv.weight{SCALE}"].shape == (5,)
    found = dequantize(stored)
    assert found.keys() == weights.keys()
    error = (found["conv.weight"] - weights["conv.weight"]).abs().flatten(1).amax(1)
    largest = weights["conv.weight"].abs().flatten(1).amax(1)
    assert bool((error <= 0.5001 * largest / 127).all()) and float((error / largest).max()) > 0.3 / 127
    for name in ("norm.running_var", "norm.num_batches_tracked", "empty.weight"):
        assert torch.equal(found[name], weights[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_weights_that_are_not_finite(value):
    with pytest.raises(InputError, match=r"head\.weight is NaN or infinite and cannot be stored as int8"):
        quantize({"head.weight": torch.tensor([[1.0, value]])})


def test_a_published_source_has_the_rounded_weights_and_says_how_often_it_answers_alike(tmp_path, monkeypatch):
    registry, data = ExpertRegistry(str(tmp_path / "shared")), registry_sources.data()
    given = registry_sources.expert(hidden=300)
    network = partial(tiny.Net, hidden=300)
    exact = registry.publish(given, data, "exact", statistics=[1.0], network=network)
    batches, prepare = [], data.on_after_batch_transfer
    with monkeypatch.context() as watched:
        watched.setattr(type(data), "on_after_batch_transfer", lambda self, *of: batches.append(0) or prepare(*of))
        card = registry.publish(given, data, "small", statistics=[1.0], network=network, weights="int8")
    assert len(batches) == len(list(labeled_batches(data)))  # one pass over the data for both models
    assert exact.agreement is None
    small, large = (sum(one.files[part]["bytes"] for part in ("encoder", "head")) for one in (card, exact))
    assert small < 0.62 * large  # of this network a third are biases and scales
    found = registry.load("small")
    assert found.fingerprint == card.fingerprint != given.fingerprint
    inputs = torch.cat([batch.input for batch in labeled_batches(data)])
    same = (found(inputs).argmax(1) == given(inputs).argmax(1)).double().mean()
    assert card.agreement == float(same) > 0.8
    rounded = dequantize(quantize(given.network.state_dict()))
    assert all(torch.equal(value, rounded[name]) for name, value in found.network.state_dict().items())
    targets = torch.cat([batch.target for batch in labeled_batches(data)])
    first = found.forward_with_representations(inputs)[1][targets == 0].mean(0)
    torch.testing.assert_close(registry.centroids(card)[1][0], first)
    assert torch.equal(given.network.body[0].weight, registry.load("exact").network.body[0].weight)  # not rounded too


def test_scales_that_do_not_fit_are_named():
    stored = quantize({"weight": torch.rand(3, 2)})
    for name, value in ((f"weight{SCALE}", torch.ones(2)), ("weight", torch.rand(3, 2))):
        with pytest.raises(InputError, match=r"weight has . scale\(s\), .* expected int8 with a scale for each row"):
            dequantize(stored | {name: value})


def test_refuses_other_types(tmp_path):
    with pytest.raises(InputError, match="weights is 'int4'; expected float32, int8"):
        ExpertRegistry(str(tmp_path)).publish(registry_sources.expert(), registry_sources.data(), "a", weights="int4")
