"""Two gloo processes find what one finds."""

import json

import pytest
import torch
from helpers import metrics_script
from helpers.processes import together

from lightning_fusion.metrics import LinearCKA


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_states_are_gathered_over_processes(tmp_path):
    together(tmp_path, metrics_script.work)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    one = metrics_script.figures([list(range(10))])
    assert 0 < one["fused_eer"] < 1 and one["eer"][0] != one["eer"][1]
    x, y = metrics_script.representations()
    repeated = LinearCKA(4, 3)  # sums count a repeated sample twice
    repeated.update(x[[*range(10), 0]], y[[*range(10), 0]])
    assert first.pop("cka") == pytest.approx(repeated.compute().item(), rel=1e-6) != one.pop("cka")
    assert first == one
    assert torch.tensor(one["idle"]).isfinite()
