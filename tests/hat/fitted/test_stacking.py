import numpy as np
import pytest
import torch
from helpers.evidence import EVIDENCE, TARGET
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from lightning_fusion.hat.fitted import stacking
from lightning_fusion.hat.fitted.base import FLOOR
from lightning_fusion.hat.fitted.stacking import Stacking


def test_the_regression_is_that_of_scikit_learn():
    """Without an offset it is ridge-penalized multinomial logistic regression."""
    values = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = (values[:, :3] + 0.5 * values[:, 3:]).argmax(1)
    ours = stacking._regress(values, torch.zeros(40, 3, dtype=torch.float64), target, 2.0)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8, max_iter=5000).fit(values, target)
    np.testing.assert_allclose(ours.T, theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("representations", [False, True])
def test_stacking_starts_at_the_average_and_learns_from_labels(representations):
    width = 10 if representations else 6
    average = EVIDENCE.log_probabilities.exp().mean(1)
    empty = Stacking(width, 3, representations)
    floored = average.clamp_min(FLOOR)
    torch.testing.assert_close(empty(EVIDENCE), floored / floored.sum(1, keepdim=True))
    made = Stacking(width, 3, representations).fit(EVIDENCE, TARGET, 0)
    loss = [float(F.nll_loss(part.clamp_min(1e-9).log(), TARGET)) for part in (average, made(EVIDENCE))]
    assert loss[1] < loss[0]
    few = torch.tensor([0, 1])  # two labels must not outweigh the sources
    small = Stacking(width, 3, representations).fit(EVIDENCE.take(few), TARGET[few], 0)
    assert float((small(EVIDENCE) - floored).abs().mean()) < 0.1
