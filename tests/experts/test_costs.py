import pytest
import torch
from torch import nn

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.errors import InputError
from lightning_fusion.experts.costs import measure_costs

CLASSES = ["cat", "dog", "owl"]


def pool(**networks) -> ExpertPool:
    return ExpertPool({name: Expert(network, classes=CLASSES) for name, network in networks.items()})


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 6, 3))


def linear(hidden: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 6, hidden), nn.ReLU(), nn.Linear(hidden, 3))


class FromDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = linear()

    def forward(self, input):
        return self.network(input["image"])


class TestFlops:
    @pytest.mark.parametrize("rows", [1, 7])
    def test_equal_those_worked_out_by_hand(self, rows):
        found = measure_costs(pool(conv=conv(), linear=linear()), torch.zeros(rows, 2, 5, 6), relative=False)
        convolution = 2 * (4 * 5 * 6) * (2 * 3 * 3)  # for each output a product and a sum per weight
        assert found == {"conv": convolution + 2 * 120 * 3, "linear": 2 * 60 * 10 + 2 * 10 * 3}

    def test_relative_costs_have_mean_one(self):
        small, large, conved = linear(10), linear(40), conv()
        found = measure_costs(pool(s=small, l=large, c=conved), torch.zeros(3, 2, 5, 6))
        assert sum(found.values()) / 3 == pytest.approx(1)
        assert found["l"] / found["s"] == pytest.approx(4)
        assert found["c"] / found["s"] == pytest.approx((2 * 120 * 18 + 720) / 1260)

    def test_a_dict_is_a_batch_of_its_rows(self):
        expected = measure_costs(pool(a=linear()), torch.zeros(4, 2, 5, 6), relative=False)
        nested = {"image": torch.zeros(4, 2, 5, 6), "label": torch.zeros(4)}
        assert measure_costs(pool(a=FromDict()), nested, relative=False) == expected

    def test_measuring_leaves_the_experts_as_they_were(self):
        asked = pool(a=nn.Sequential(conv(), nn.BatchNorm1d(3), nn.Dropout(0.5)))
        before = asked.metadata()
        measure_costs(asked, torch.randn(4, 2, 5, 6))
        assert asked.metadata() == before and not asked.training

    def test_an_expert_that_torch_cannot_count_is_named(self):
        def service(input):
            return torch.full((len(input), 3), 1 / 3)

        mixed = ExpertPool(
            {
                "net": Expert(linear(), classes=CLASSES),
                "far": Expert(service, classes=CLASSES, output="probabilities"),
            }
        )
        with pytest.raises(InputError, match=r"torch counts no operation of expert\(s\) far; measure latency"):
            measure_costs(mixed, torch.zeros(2, 2, 5, 6))
        assert min(measure_costs(mixed, torch.zeros(2, 2, 5, 6), kind="latency", repeats=1).values()) > 0


class TestLatency:
    def test_orders_a_small_and_a_much_larger_network(self):
        wide = nn.Sequential(nn.Flatten(), nn.Linear(60, 1500), nn.Linear(1500, 1500), nn.Linear(1500, 3))
        found = measure_costs(pool(large=wide, small=linear(4)), torch.zeros(256, 2, 5, 6), kind="latency")
        assert found["large"] > 3 * found["small"] > 0
        assert sum(found.values()) / 2 == pytest.approx(1)

    def test_is_the_median_per_sample_without_the_first(self, monkeypatch):
        """Six calls of 9, 1, 2, 30, 4 and 5 seconds for two samples: the median of the last five is 4."""
        ticks = [time for start, took in enumerate([9, 1, 2, 30, 4, 5]) for time in (100 * start, 100 * start + took)]
        monkeypatch.setattr("lightning_fusion.experts.costs.time.perf_counter", iter(ticks).__next__)
        found = measure_costs(pool(a=linear()), torch.zeros(2, 2, 5, 6), kind="latency", relative=False)
        assert found == {"a": 2.0}


@pytest.mark.parametrize("input", [torch.zeros(0, 2, 5, 6), {"image": torch.zeros(0, 2, 5, 6)}])
@pytest.mark.parametrize("kind", ["flops", "latency"])
def test_an_empty_batch_is_rejected(kind, input):
    with pytest.raises(InputError, match="input: found no samples"):
        measure_costs(pool(a=linear()), input, kind=kind)


def test_an_unknown_kind_is_rejected():
    with pytest.raises(InputError, match="kind is 'joules'; expected flops or latency"):
        measure_costs(pool(a=linear()), torch.zeros(1, 2, 5, 6), kind="joules")
