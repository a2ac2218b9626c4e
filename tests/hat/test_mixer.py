import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hat as reference
from torch import nn

from lightning_fusion.errors import InputError
from lightning_fusion.hat.mixer import Mixer, injection_loss, shared_columns

WIDTHS = {"a": 4, "b": 7, "c": 2}
COLUMNS = {"a": [0, 1, 2, -1, -1], "b": [-1, 1, -1, 0, -1], "c": [2, -1, 0, 1, -1]}  # nobody knows the last class
OUTPUTS = {"a": 3, "b": 2, "c": 4}


def made(mixing="attention", heads=True, **more) -> Mixer:
    torch.manual_seed(1)
    parts = {name: nn.Linear(width, OUTPUTS[name]) for name, width in WIDTHS.items()} if heads else None
    return Mixer(6, WIDTHS, parts, COLUMNS, 5, mixing=mixing, **more)


def batch(rows=9):
    generator = torch.Generator().manual_seed(2)
    features = {name: torch.randn(rows, width, generator=generator) for name, width in WIDTHS.items()}
    return torch.randn(rows, 6, generator=generator), features


def expected(mixer, z_t, features, temperature=1.0, dim=32):
    """By the reference: weights (B, S) and p_mix (B, C)."""
    pair = lambda layer: (layer.weight.detach().numpy(), 0 if layer.bias is None else layer.bias.detach().numpy())  # noqa: E731
    all_weights, all_mixed = [], []
    for row in range(len(z_t)):
        z = [features[name][row].numpy() for name in WIDTHS]
        answers = []
        for name, value in zip(WIDTHS, z, strict=True):
            weight, bias = pair(mixer.heads[name])
            answers.append(reference.answer(weight @ value + bias, COLUMNS[name]))
        if mixer.mixing == "attention":
            maps = [pair(mixer.maps[name]) for name in WIDTHS]
            q, k = pair(mixer.query), pair(mixer.key)
            weights = reference.attention(z_t[row].numpy(), z, q, k, maps, dim, temperature)
        elif mixer.mixing == "static":
            weights = reference.softmax(mixer.static.detach().numpy())
        else:
            weights = np.full(3, 1 / 3)
        all_weights.append(weights)
        all_mixed.append(reference.fused(weights, answers))
    return np.array(all_weights), np.array(all_mixed)


@pytest.mark.parametrize("weights", ["attention", "static"])
def test_equals_the_formulas(weights):
    mixer = made(weights, temperature=0.3, dim=8)
    if weights == "static":
        mixer.static.data = torch.tensor([0.3, -1.0, 2.0])
    z_t, features = batch()
    log_weights, log_mix = mixer(z_t, features)
    ours, mixed = expected(mixer, z_t, features, temperature=0.3, dim=8)
    np.testing.assert_allclose(log_weights.detach().exp(), ours, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(log_mix.detach().exp(), mixed, rtol=1e-4, atol=1e-6)
    assert log_mix[:, 4].eq(-math.inf).all()  # the class that nobody knows

    target = torch.tensor([0, 1, 2, 3, 4, -100, 0, -100, 4])
    assert mixer.known(target).tolist() == [0, 1, 2, 3, -100, -100, 0, -100, -100]
    wanted = reference.cross_entropy(mixed, mixer.known(target).numpy())
    assert mixer.loss(log_mix, target).item() / 5 == pytest.approx(wanted, rel=1e-5)


def test_scores_of_the_sources_serve_in_place_of_heads():
    with_heads, without = made(), made(heads=False)
    without.load_state_dict({key: value for key, value in with_heads.state_dict().items() if "heads" not in key})
    z_t, features = batch()
    scores = {name: head(features[name]).log_softmax(1) for name, head in with_heads.heads.items()}
    torch.testing.assert_close(without(z_t, features, scores), with_heads(z_t, features))


@pytest.mark.parametrize("weights", ["attention", "static"])
def test_gradients_are_finite_and_reach_every_weight(weights):
    mixer = made(weights)
    z_t, features = batch()
    mixer.loss(mixer(z_t, features)[1], torch.tensor([0, 1, 2, 3, 4, -100, 0, 1, 4])).backward()
    for name, weight in mixer.named_parameters():
        assert weight.grad.isfinite().all() and weight.grad.any(), name


def test_without_a_label_it_is_in_the_graph_and_teaches_nothing():
    mixer = made()
    z_t, features = batch(3)
    loss = mixer.loss(mixer(z_t, features)[1], torch.tensor([-100, 4, -100]))
    loss.backward()
    assert loss.item() == 0
    assert all(not weight.grad.any() for weight in mixer.parameters())


def test_confident_sources_do_not_overflow():
    mixer = made(heads=False)
    z_t, features = batch(2)
    scores = {name: torch.full((2, width), -1e4, requires_grad=True) for name, width in OUTPUTS.items()}
    with torch.no_grad():
        for value in scores.values():
            value[:, 0] = 1e4
    log_mix = mixer(1e3 * z_t, features, scores)[1]
    mixer.loss(log_mix, torch.tensor([1, 1])).backward()
    assert log_mix[:, :4].isfinite().all() and scores["a"].grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_sums_are_in_float32(dtype):
    mixer = made()
    z_t, features = batch()
    whole = mixer(z_t, features)
    with torch.autocast("cpu", dtype):
        mixed = mixer(z_t, features)
    for ours, theirs in zip(mixed, whole, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.exp(), theirs.exp(), atol=0.03, rtol=0)
    assert mixed[1].exp().sum(1).sub(1).abs().max() < 1e-5
    assert mixer.to(dtype)(z_t, features)[1].dtype == torch.float32


@pytest.mark.slow
def test_a_poisoned_source_loses_its_weight():
    """Two sources read the class off their features; the head of one is permuted, and heads are fixed."""
    torch.manual_seed(0)
    target = torch.randint(3, (300,))
    features = {name: nn.functional.one_hot(target, 3) + 0.3 * torch.randn(300, 3) for name in ("good", "poisoned")}
    scores = {"good": 4 * features["good"], "poisoned": 4 * features["poisoned"][:, [1, 2, 0]]}
    for weights in ("attention", "static"):
        mixer = Mixer(5, {"good": 3, "poisoned": 3}, None, {name: [0, 1, 2] for name in scores}, 3, mixing=weights)
        optimizer = torch.optim.Adam(mixer.parameters(), lr=0.02)
        z_t = torch.randn(300, 5)
        for _ in range(100):
            optimizer.zero_grad()
            mixer.loss(mixer(z_t, features, scores)[1], target).backward()
            optimizer.step()
        assert mixer(z_t, features, scores)[0].exp().mean(0)[1] < 0.1, weights


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), unique=True, min_size=1), min_size=1, max_size=4))
def test_shared_columns_are_where_the_classes_stand(known):
    names = "abcdefg"
    sources = {f"s{number}": [names[place] for place in places] for number, places in enumerate(known)}
    classes = list("fbzd")
    strangers = [source for source, own in sources.items() if not set(own) & set(classes)]
    if strangers:
        with pytest.raises(InputError, match=rf"experts: {strangers[0]} has the classes .*none of the target's"):
            shared_columns(sources, classes)
        return
    columns, uncovered = shared_columns(sources, classes)
    for source, own in columns.items():
        for name, column in zip(classes, own, strict=True):
            assert (column == -1 and name not in sources[source]) or sources[source][column] == name
    assert uncovered == [name for name in classes if all(name not in own for own in sources.values())]


def test_injection_is_the_divergence_of_the_rows_that_count():
    generator = torch.Generator().manual_seed(0)
    knowledge = torch.rand(6, 4, generator=generator)
    knowledge[:, 1] = 0  # a class that no source knows
    knowledge = knowledge / knowledge.sum(1, keepdim=True)
    knowledge[4] = 0  # not in the dictionary yet
    log_student = torch.randn(6, 4, generator=generator, requires_grad=True)
    rows = torch.tensor([True, False, True, True, True, True])
    found = injection_loss(log_student.log_softmax(1), knowledge, rows)
    kept = knowledge.numpy() * rows.numpy()[:, None]
    wanted = reference.divergence(kept, log_student.detach().softmax(1).numpy()) * 4
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert not log_student.grad[[1, 4]].any() and log_student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": "best"}, "mixing is 'best'; expected attention, static"),
        ({"temperature": 0.0}, "temperature is 0.0, dim 32; expected numbers above 0"),
        ({"dim": 0}, "dim 0; expected numbers above 0"),
        ({"source_dims": {}}, "the mixer has no source"),
        ({"num_classes": 4}, r"columns have shape \(3, 5\); expected \(3, 4\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    given = {"num_target_dims": 6, "source_dims": WIDTHS, "heads": None, "columns": COLUMNS, "num_classes": 5}
    with pytest.raises(InputError, match=message):
        Mixer(**(given | arguments))
