import numpy as np
import pytest
import torch
from helpers import tiny
from scipy.optimize import minimize
from torch.nn import functional as F

from lightning_fusion import ExpertModule, collect
from lightning_fusion.acorl.fusion import (
    CalibratedFusion,
    LinearHead,
    average_outputs,
    average_scores,
    concatenate_embeddings,
    fit_output_weights,
    late_fusion,
)
from lightning_fusion.errors import InputError


def probabilities(rows: int = 60, members: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(4, (rows,), generator=generator)
    logits = torch.randn(rows, members, 4, generator=generator)
    logits += torch.tensor([0.5, 1.0, 2.0])[None, :members, None] * F.one_hot(target, 4)[:, None]
    return logits.softmax(2), target


def test_weights_are_the_most_likely_ones():
    outputs, target = probabilities()
    right = outputs[torch.arange(60), :, target].double().numpy()

    def loss(free):
        weights = np.exp(free) / np.exp(free).sum()
        return -np.log(right @ weights).mean()

    best = min(
        (
            minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 5000})
            for start in ([0, 0, 0], [0, 1, 2])
        ),
        key=lambda found: found.fun,
    )
    found = fit_output_weights(outputs, target).numpy()
    assert found.sum() == pytest.approx(1)
    assert -np.log(right @ found).mean() == pytest.approx(best.fun, abs=1e-6)


def test_average_is_weighted():
    outputs, _ = probabilities()
    weights = torch.tensor([0.2, 0.3, 0.5])
    expected = sum(weight * outputs[:, k] for k, weight in enumerate(weights))
    torch.testing.assert_close(average_outputs(outputs, weights), expected)
    torch.testing.assert_close(average_outputs(outputs), outputs.mean(1))


@pytest.mark.slow
def test_late_fusion_is_an_ordinary_expert_on_stored_features():
    pool = tiny.pool(features="body")
    rows = {"train": 200, "val": 30, "test": 100}
    outputs = collect(pool, tiny.data(rows=rows), keep_representations=True, trainer=tiny.trainer())
    head, data = late_fusion(outputs, ["b", "a"], batch_size=20)
    inputs = tiny.tensors(rows=rows)["train"][0]
    features = torch.cat([pool.members[name].forward_with_representations(inputs)[1] for name in ("b", "a")], 1)
    torch.testing.assert_close(data.rows("train").inputs, features)
    standardized = (features - head.mean) * head.scale
    torch.testing.assert_close(standardized.mean(0), torch.zeros(10), atol=1e-4, rtol=0)
    spread = standardized.std(0)
    assert ((spread - 1).abs() < 1e-3)[features.std(0) > 1e-6].all()
    module = ExpertModule(head, classes=data.classes)
    trainer = tiny.trainer(30)
    trainer.fit(module, datamodule=data)
    assert trainer.test(module, datamodule=data, verbose=False)[0]["test_accuracy"] > 0.6


def test_a_feature_that_never_varies_is_left_out():
    head = LinearHead(2, torch.tensor([0.0, 5.0]), torch.tensor([1.0, 0.0]))
    one, other = head(torch.tensor([[1.0, 5.0]])), head(torch.tensor([[1.0, 7.0]]))
    assert torch.equal(one, other)


def test_late_fusion_needs_features():
    outputs = collect(tiny.pool(), tiny.data(), trainer=tiny.trainer())
    with pytest.raises(
        InputError, match="the store has no representations of b; collect with keep_representations=True"
    ):
        late_fusion(outputs, ["b"])


def test_the_cosine_of_the_concatenation_is_the_mean_of_the_cosines():
    generator = torch.Generator().manual_seed(0)
    members = [torch.randn(8, size, generator=generator) for size in (5, 3, 16)]
    joined = concatenate_embeddings(members)
    pairs = [(0, 1), (2, 3), (4, 4), (7, 0)]
    scores = [torch.stack([F.cosine_similarity(m[i], m[j], dim=0) for i, j in pairs]) for m in members]
    found = torch.stack([F.cosine_similarity(joined[i], joined[j], dim=0) for i, j in pairs])
    torch.testing.assert_close(found, average_scores(scores))


def test_calibrated_scores_are_log_odds_at_equal_priors():
    generator = torch.Generator().manual_seed(0)
    same = torch.arange(20_000) % 10 == 0
    scores = torch.randn(1, 20_000, generator=generator, dtype=torch.float64) + 2.0 * same  # log-odds: 2 s - 2
    fusion = CalibratedFusion().fit(scores, same)
    torch.testing.assert_close(
        fusion(torch.tensor([[0.0, 1.0, 2.0]])), torch.tensor([-2.0, 0.0, 2.0]).double(), atol=0.2, rtol=0
    )


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        (torch.zeros(2, 3), torch.ones(3, dtype=torch.bool), "trials of one kind only"),
        (torch.full((2, 2), float("nan")), torch.tensor([True, False]), "NaN or infinite"),
    ],
)
def test_trials_that_teach_nothing_are_rejected(scores, same, message):
    with pytest.raises(InputError, match=message):
        CalibratedFusion().fit(scores, same)


def test_no_sample_gives_no_weights():
    with pytest.raises(InputError, match="found no sample"):
        fit_output_weights(torch.zeros(0, 2, 3), torch.zeros(0, dtype=torch.long))


def test_a_member_whose_scores_speak_the_other_way_is_named():
    generator = torch.Generator().manual_seed(0)
    same = torch.arange(200) % 2 == 0
    scores = same + torch.randn(2, 200, generator=generator)
    with pytest.warns(UserWarning, match=r"higher scores of member\(s\) 1 mean different speakers on the 100 trials"):
        CalibratedFusion().fit(torch.stack([scores[0], -scores[1]]), same)
