import io
import json
import math
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import registry_sources, sealed, tiny
from helpers.registry_sources import CLASSES
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr
from torch import nn

from lightning_fusion import Expert, ExpertRegistry, select_sources
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.hat.similarity import statistics_similarity

POOL = {  # name: classes, width of the representation
    "ann": (["cat", "dog", "owl", "pig"], 5),
    "ben": (["pig", "cat", "dog", "owl"], 7),
    "cid": (["dog", "cat", "fox"], 3),
    "dan": (["owl", "pig", "dog"], 4),
    "eve": (["cat", "dog", "owl", "pig"], 6),
    "fay": (["fox", "hen"], 5),
    "gus": (["pig", "owl"], 8),
}


def address() -> str:
    return f"memory://{uuid.uuid4().hex}"


def shifted(classes: list[str], seed: int, rows: int = 24, labeled: int | None = None) -> TensorDataModule:
    """Samples whose class is a point of its own, the same everywhere up to a shift and a scale of the domain."""
    generator = torch.Generator().manual_seed(seed)
    names = sorted({*CLASSES, "fox", "hen"})
    points = 2 * torch.randn(len(names), 4, generator=torch.Generator().manual_seed(99))
    target = torch.arange(rows) % len(classes)
    place = torch.tensor([names.index(label) for label in classes])
    input = points[place[target]] + 0.7 * torch.randn(rows, 4, generator=generator)
    input = input * (1 + 0.2 * seed) + 0.3 * torch.randn(4, generator=generator)
    if labeled is not None:
        target = target.where(torch.arange(rows) < labeled, -100)
    return TensorDataModule({"train": (input, target)}, classes, batch_size=5)


def statistics(data: TensorDataModule) -> torch.Tensor:
    inputs = data.rows("train").inputs
    return torch.cat([inputs.mean(0), inputs.std(0)])


def trained(data: TensorDataModule, hidden: int, seed: int) -> Expert:
    """A small network after a few steps, so that it knows something."""
    torch.manual_seed(seed)
    network, rows = tiny.Net(len(data.classes), hidden), data.rows("train")
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(rows.inputs), rows.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Expert(network, classes=data.classes, features="body")


@pytest.fixture(scope="module")
def pool() -> tuple[ExpertRegistry, dict[str, Expert], dict[str, TensorDataModule]]:
    registry, experts, data = ExpertRegistry(address()), {}, {}
    for seed, (name, (classes, hidden)) in enumerate(POOL.items()):
        data[name] = shifted(classes, seed)
        experts[name] = trained(data[name], hidden, seed)
        registry.publish(experts[name], data[name], name, statistics, network=partial(tiny.Net, hidden=hidden))
    return registry, experts, data


@pytest.fixture(scope="module")
def target() -> TensorDataModule:
    return shifted(CLASSES, seed=11, labeled=10)


def select(registry: ExpertRegistry, target: TensorDataModule, **arguments):
    return select_sources(registry, target, **({"statistics": statistics} | arguments))


def reference(experts, data, target, keep_fraction: float, num_sources: int) -> dict[str, dict[str, float]]:
    """Section 1 of the method in NumPy, one sample after the other."""
    inputs, labels = (value.numpy() for value in (target.rows("train").inputs, target.rows("train").targets))
    labeled = [(x, CLASSES[y]) for x, y in zip(inputs, labels, strict=True) if y >= 0]
    u = {
        name: statistics(own).numpy().astype(np.float64)
        for name, own in data.items()
        if set(own.classes) & set(CLASSES)
    }
    mean, std = np.mean(list(u.values()), 0), np.std(list(u.values()), 0)
    u_t = (statistics(target).numpy().astype(np.float64) - mean) / std
    rows: dict[str, dict[str, float]] = {}
    for name, own in u.items():
        z = (own - mean) / std
        rows[name] = {"a": z @ u_t / np.linalg.norm(z) / np.linalg.norm(u_t)}
    kept = sorted(rows, key=lambda name: (-rows[name]["a"], name))[
        : max(num_sources, math.ceil(keep_fraction * len(rows)))
    ]
    for name in kept:
        expert, classes = experts[name], experts[name].classes
        weights = {key: value.numpy().astype(np.float64) for key, value in expert.network.state_dict().items()}

        def encode(x, weights=weights):
            return np.maximum(weights["body.0.weight"] @ x + weights["body.0.bias"], 0)

        own = data[name].rows("train")
        samples = list(zip(own.inputs.numpy(), own.targets, strict=True))
        shared = [label for label in CLASSES if label in classes]
        cosines, right, known = [], 0, 0
        for label in shared:
            theirs = np.mean([encode(x) for x, y in samples if classes[y] == label], 0)
            ours = np.mean([encode(x) for x, y in labeled if y == label], 0)
            cosines.append(theirs @ ours / np.linalg.norm(theirs) / np.linalg.norm(ours))
        for x, y in labeled:
            if y in shared:
                logits = weights["head.weight"] @ encode(x) + weights["head.bias"]
                known += 1
                right += max(shared, key=lambda label: logits[classes.index(label)]) == y
        row = rows[name]
        row |= {
            "coverage": len(shared) / len(CLASSES),
            "c": np.mean(cosines),
            "acc": (right + 1) / (known + len(shared)),
        }
        row["r"] = row["coverage"] * (1 + row["c"]) / 2 * row["acc"]
    return rows


@pytest.mark.parametrize(("keep_fraction", "num_sources"), [(1.0, 2), (0.5, 2), (0.2, 3), (0.7, 1)])
def test_is_the_method_in_numpy(pool, target, keep_fraction, num_sources):
    registry, experts, data = pool
    expected = reference(experts, data, target, keep_fraction, num_sources)
    found = select(registry, target, keep_fraction=keep_fraction, num_sources=num_sources)
    ranked = sorted((name for name in expected if "r" in expected[name]), key=lambda name: (-expected[name]["r"], name))
    assert list(found.experts) == ranked[:num_sources]
    assert [row.name for row in found.table if row.kept] == ranked
    rows = {row.name: row for row in found.table}
    for name, wanted in expected.items():
        row = rows[name]
        assert row.similarity == pytest.approx(wanted["a"], abs=1e-6)
        if "r" in wanted:
            figures = row.coverage, row.centroid_similarity, row.accuracy, row.score
            assert figures == pytest.approx([wanted[key] for key in ("coverage", "c", "acc", "r")], abs=1e-5)
            assert row.centroid_score == (1 + row.centroid_similarity) / 2
        else:
            assert (row.kept, row.accuracy, row.score, row.reason) == (False, None, None, "")
    assert (rows["fay"].reason, rows["fay"].chosen) == (
        "shares no class with the target: its classes are fox, hen; set rename",
        False,
    )
    assert found.table[-1].name == "fay"
    x = torch.randn(3, 4)
    for name, expert in found.experts.items():
        assert torch.equal(expert(x), experts[name](x))


class TestRanking:
    @pytest.mark.parametrize(
        ("rank_by", "score"),
        [
            ("centroid", lambda row: row.coverage * row.centroid_score),
            ("accuracy", lambda row: row.coverage * row.accuracy),
            ("statistics", lambda row: row.similarity),
        ],
    )
    def test_baselines_rank_by_their_part(self, pool, target, rank_by, score):
        registry, *_ = pool
        whole = {row.name: row for row in select(registry, target, keep_fraction=1.0).table if not row.reason}
        found = select(registry, target, keep_fraction=1.0, num_sources=3, rank_by=rank_by)
        assert list(found.experts) == sorted(whole, key=lambda name: -score(whole[name]))[:3]
        for row in found.table[:3]:
            assert row.score == pytest.approx(score(row))
            assert row.accuracy == whole[row.name].accuracy

    def test_evidence_weights_the_parts_by_their_rank_correlation_at_the_target(self, pool, target):
        registry, *_ = pool
        found = select(registry, target, keep_fraction=1.0, num_sources=3, rank_by="evidence")
        rows = [row for row in found.table if row.kept]
        accuracies = [row.accuracy for row in rows]
        centroid, alike = (
            float(spearmanr([getattr(row, part) for row in rows], accuracies).statistic)
            for part in ("centroid_similarity", "similarity")
        )
        assert found.correlations == pytest.approx({"statistics": alike, "centroid": centroid}, abs=1e-5)
        for row in rows:
            parts = row.centroid_score ** max(0, centroid) * ((1 + row.similarity) / 2) ** max(0, alike)
            assert row.score == pytest.approx(row.coverage * row.accuracy * parts, rel=1e-4)
        assert list(found.experts) == [row.name for row in sorted(rows, key=lambda row: -row.score)[:3]]
        assert found.as_dict()["correlations"] == found.correlations
        console = Console(width=100, file=io.StringIO())
        console.print(found)
        assert f"centroid {centroid:.2f}" in console.file.getvalue()

    def test_a_part_that_cannot_be_told_is_named_and_has_no_weight(self, pool, target):
        registry, *_ = pool
        found = select(registry, target, keep_fraction=0.1, num_sources=2, rank_by="evidence")  # two sources ran
        assert found.correlations == {"statistics": None, "centroid": None}
        for row in found.table[:2]:
            assert row.score == pytest.approx(row.coverage * row.accuracy)
        console = Console(width=100, file=io.StringIO())
        console.print(found)
        assert "labels: unknown, too few sources (" in " ".join(console.file.getvalue().split())

    def test_random_ones_depend_on_the_seed_alone(self, pool, target):
        registry, *_ = pool
        draws = {
            seed: list(select(registry, target, num_sources=2, rank_by="random", seed=seed).experts)
            for seed in range(12)
        }
        assert draws[3] == list(select(registry, target, num_sources=2, rank_by="random", seed=3).experts)
        assert {name for names in draws.values() for name in names} == set(POOL) - {"fay"}

    def test_encoder_first_ranks_without_accuracies(self, pool, target):
        registry, *_ = pool
        whole = {row.name: row for row in select(registry, target, keep_fraction=1.0).table if not row.reason}
        found = select(registry, target, keep_fraction=1.0, num_sources=2, encoder_first=True)
        score = {name: row.coverage * row.centroid_score for name, row in whole.items()}
        assert list(found.experts) == sorted(score, key=lambda name: -score[name])[:2]
        for row in found.table:
            assert row.accuracy == (whole[row.name].accuracy if row.chosen else None)
            assert row.score == pytest.approx(score.get(row.name))

    def test_ties_go_by_name(self):
        registry = ExpertRegistry(address())
        for name in ("d", "b", "a", "c"):
            registry_sources.publish(registry, name, statistics=[1.0, 2.0])
        found = select_sources(
            registry, registry_sources.data(), keep_fraction=0.5, num_sources=1, statistics=[3.0, 1.0]
        )
        assert [(row.name, row.kept, row.chosen) for row in found.table] == [
            ("a", True, True),
            ("b", True, False),
            ("c", False, False),
            ("d", False, False),
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize(("keep_fraction", "kept"), [(0.28, 7), (0.29, 8), (0.04, 2)])
    def test_the_share_is_rounded_up_and_not_by_its_binary_digits(self, keep_fraction, kept):
        registry = ExpertRegistry(address())
        for number in range(25):
            registry_sources.publish(registry, f"s{number}", statistics=[float(number), 0.0])
        found = select_sources(registry, registry_sources.data(), keep_fraction, 2, statistics=[1.0, 0.0])
        assert sum(row.kept for row in found.table) == kept

    def test_a_poisoned_source_is_not_chosen(self, target):
        """Six sources of one kind; the labels of one were permuted."""
        registry = ExpertRegistry(address())
        for seed in range(6):
            own = shifted(CLASSES, seed=11)
            if seed == 2:
                rows = own.rows("train")
                rows.targets = (rows.targets + 1) % 4
            registry.publish(trained(own, 8, seed), own, f"s{seed}", statistics, network=partial(tiny.Net, hidden=8))
        found = select(registry, target, keep_fraction=1.0, num_sources=5)
        assert [row.name for row in found.table if not row.chosen] == ["s2"]
        assert found.table[-1].accuracy < 0.3 < 0.7 < found.table[-2].accuracy

    def test_excluded_sources_do_not_exist(self, pool, target):
        registry, *_ = pool
        found = select(registry, target, keep_fraction=1.0, exclude=["ann", "fay"])
        assert {row.name for row in found.table} == set(POOL) - {"ann", "fay"}
        assert not {"ann", "fay"} & {one.source for one in found.ledger.transfers}
        with pytest.raises(InputError, match=r"exclude: .* has no source anna"):
            select(registry, target, exclude="anna")


@pytest.mark.parametrize("similarity", ["euclid", "jaccard"])
def test_the_first_stage_follows_the_similarity(pool, target, similarity):
    registry, _, data = pool
    found = select(registry, target, num_sources=2, similarity=similarity)
    names = [name for name in POOL if name != "fay"]
    values = statistics_similarity(
        statistics(target), torch.stack([statistics(data[name]) for name in names]), similarity
    )
    assert {row.name: row.similarity for row in found.table if not row.reason} == pytest.approx(
        dict(zip(names, values.tolist(), strict=True)), abs=1e-6
    )
    order = sorted(range(6), key=lambda number: (-round(float(values[number]), 9), names[number]))
    assert {row.name for row in found.table if row.kept} == {names[number] for number in order[:3]}


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=7), st.data())
def test_the_best_are_kept_and_ties_go_by_name(written, draw):
    """Any pool with many ties, in any order of publishing: what is kept and chosen is sorted by value, then by name."""
    registry = REGISTRIES.setdefault("one", ExpertRegistry(address()))
    if registry.files.fs.exists(registry.files.root):
        registry.files.fs.rm(registry.files.root, recursive=True)
    names = draw.draw(st.permutations([f"n{number}" for number in range(len(written))]))
    for name, (place, seed) in zip(names, written, strict=True):
        registry_sources.publish(registry, name, seed=seed, statistics=[float(place), 0.0])
    share, count = draw.draw(st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0])), draw.draw(st.integers(1, len(written)))
    found = select_sources(registry, registry_sources.data(), share, count, similarity="euclid", statistics=[1.4, 0.0])
    rows = {row.name: row for row in found.table}
    by_value = sorted(rows, key=lambda name: (-round(rows[name].similarity, 9), name))
    number = max(count, -(-round(share * 10) * len(written) // 10))
    assert {name for name in rows if rows[name].kept} == set(by_value[:number])
    ranked = sorted(by_value[:number], key=lambda name: (-round(rows[name].score, 9), name))
    assert list(found.experts) == ranked[:count]
    assert [row.name for row in found.table] == ranked + by_value[number:]


REGISTRIES: dict[str, ExpertRegistry] = {}


class TestLedger:
    @pytest.fixture
    def folder(self, tmp_path) -> ExpertRegistry:
        registry = ExpertRegistry(str(tmp_path / "shared"))
        for seed in range(6):
            registry_sources.publish(registry, f"s{seed}", seed=seed, hidden=40 + seed)
        return registry

    def sizes(self, registry: ExpertRegistry, names) -> dict[str, int]:
        """Bytes on disk by kind of file."""
        found: dict[str, int] = {}
        for name in names:
            for path in (Path(registry.address) / name).rglob("*.*"):
                found[path.stem] = found.get(path.stem, 0) + path.stat().st_size
        return found

    def test_counts_real_bytes_of_real_files(self, folder):
        found = select_sources(folder, registry_sources.data(), 0.5, 2, statistics=[1.0, 1.0])
        every, kept = (
            self.sizes(folder, folder.names),
            self.sizes(folder, [row.name for row in found.table if row.kept]),
        )
        read = kept["centroids"] + kept["encoder"] + kept["head"]
        assert found.ledger.stages == {
            "statistics": {"down": every["card"], "up": 0},
            "models": {"down": read, "up": 0},
        }
        assert found.ledger.total == every["card"] + read
        assert found.ledger.send_all == sum(every.values())
        assert found.ledger.saving == 1 - found.ledger.total / found.ledger.send_all
        assert 0.3 < found.ledger.saving < 0.5
        assert all(len([one for one in found.ledger.transfers if one.source == name]) == 4 for name in found.experts)

    def test_sending_all_is_keeping_all(self, folder):
        found = select_sources(folder, registry_sources.data(), 1.0, 2, statistics=[1.0, 1.0])
        assert (found.ledger.total, found.ledger.saving) == (found.ledger.send_all, 0.0)

    def test_encoder_first_reads_heads_of_the_chosen_only(self, folder):
        found = select_sources(folder, registry_sources.data(), 0.5, 1, encoder_first=True, statistics=[1.0, 1.0])
        kept, chosen = (
            self.sizes(folder, [row.name for row in found.table if row.kept]),
            self.sizes(folder, found.experts),
        )
        assert {stage: both["down"] for stage, both in found.ledger.stages.items()} == {
            "statistics": self.sizes(folder, folder.names)["card"],
            "encoders": kept["centroids"] + kept["encoder"],
            "heads": chosen["head"],
        }

    @pytest.mark.parametrize(
        ("rank_by", "files", "models"), [("statistics", 2, 2), ("random", 2, 2), ("accuracy", 2, 3)]
    )
    def test_baselines_read_what_they_need(self, folder, rank_by, files, models):
        found = select_sources(folder, registry_sources.data(), 0.5, 2, rank_by=rank_by, statistics=[1.0, 1.0])
        read = [one for one in found.ledger.transfers if one.stage == "models"]
        assert len(read) == 2 * models
        assert {one.file for one in read} == {"encoder.safetensors", "head.safetensors"}

    def test_the_registry_counts_it_too_even_where_nothing_came_of_it(self, folder):
        folder.ledger.clear()
        found = select_sources(folder, registry_sources.data(), statistics=[1.0, 1.0])
        assert folder.ledger == found.ledger.transfers
        folder.ledger.clear()
        with pytest.raises(InputError, match="none of 6 sources is eligible"):
            select_sources(folder, registry_sources.data(["fox", "hen"]), statistics=[1.0, 1.0])
        assert len(folder.ledger) == 6

    @pytest.mark.slow
    def test_over_a_network(self, folder):
        target = registry_sources.data()
        near = select_sources(folder, target, 0.5, 2, statistics=[1.0, 1.0])
        breaks = {"encoder.safetensors": 1}
        with registry_sources.served(Path(folder.address), breaks) as (url, _):
            far = select_sources(ExpertRegistry(url), target, 0.5, 2, statistics=[1.0, 1.0])
        assert far.table == near.table
        index = sum(file.stat().st_size for file in Path(folder.address).glob("cards/*")) - sum(
            file.stat().st_size for file in Path(folder.address).glob("*/card.json")
        )
        index += (Path(folder.address) / "index.json").stat().st_size
        broken = folder.card(next(row.name for row in near.table if row.kept)).files["encoder"]["bytes"]
        assert far.ledger.send_all == near.ledger.send_all + index
        assert abs(far.ledger.total - near.ledger.total - index - broken // 2) < 100  # one encoder broke half-way
        breaks = {"head.safetensors": 99}
        with (
            registry_sources.served(Path(folder.address), breaks) as (url, _),
            pytest.warns(UserWarning, match="cannot be used"),
            pytest.raises(InputError, match=r"none of 6 sources can be used .*tried 3 times"),
        ):
            select_sources(ExpertRegistry(url), target, 0.5, 2, statistics=[1.0, 1.0])


class TestNotEligible:
    """A source that does not fit is named with its reason; another takes its place."""

    def test_each_reason(self, tmp_path):
        registry = ExpertRegistry(str(tmp_path))
        for name in ("good_1", "good_2", "good_3"):
            registry_sources.publish(registry, name)
        registry_sources.publish(registry, "a_other_classes", classes=["fox", "hen"])
        registry_sources.publish(registry, "b_unlabeled_class", classes=["pig", "fox"])
        registry_sources.publish(registry, "c_other_statistics", statistics=[1.0, 2.0, 3.0])
        channels = TensorDataModule({"train": (torch.randn(8, 9, 1), torch.arange(8) % 4)}, CLASSES)
        wide = Expert(Channels(4), classes=CLASSES, features="body")
        registry.publish(wide, channels, "d_channels", statistics=[0.0, 1.0], network=Channels)
        registry_sources.publish(registry, "e_changed")
        strange = {"f_nan": math.nan, "f_vast": 1.7e308, "f_whole": 10**400}
        for name in strange:
            registry_sources.publish(registry, name)
        edited = [(name, "statistics", [value, 1.0]) for name, value in strange.items()]
        for name, key, value in (("e_changed", "classes", CLASSES[::-1]), *edited):
            sealed.edit(tmp_path / name / "card.json", lambda card, key=key, value=value: card | {key: value})
        registry_sources.publish(registry, "g_no_common_sample", data=registry_sources.data(["pig", "fox"]))
        registry_sources.publish(registry, "h_gone")
        card = registry.card("h_gone")
        (tmp_path / "h_gone" / card.version / "head.safetensors").unlink()

        base = registry_sources.data(rows=12)
        inputs, targets = base.rows("train").inputs, base.rows("train").targets
        target = TensorDataModule({"train": (inputs, targets.where(targets != 3, -100))}, CLASSES)
        with pytest.warns(UserWarning) as caught:
            found = select_sources(registry, target, 0.9, 3, statistics=[0.0, 1.0])
        assert list(found.experts) == ["good_1", "good_2", "good_3"]
        reasons = {row.name: row.reason for row in found.table if row.reason}
        expected = {
            "a_other_classes": "shares no class with the target: its classes are fox, hen; set rename",
            "b_unlabeled_class": "no labeled sample is of a shared class (pig)",
            "c_other_statistics": "its statistics are 3 numbers, the target's 2",
            "d_channels": "cannot be used: RuntimeError: mat1 and mat2 shapes cannot be multiplied (9x4 and 9x5)",
            "e_changed": "cannot be used: source e_changed: its card names an expert of fingerprint",
            "f_nan": "its statistics are NaN, infinite or outside of float32",
            "f_vast": "its statistics are NaN, infinite or outside of float32",
            "f_whole": "its statistics are NaN, infinite or outside of float32",
            "g_no_common_sample": "cannot be used: it has no centroid of a class with labeled target samples",
            "h_gone": "head.safetensors does not exist",
        }
        assert list(reasons) == list(expected)
        assert [name for name in expected if expected[name] not in reasons[name]] == []
        assert not any(row.kept or row.chosen for row in found.table if row.reason)
        assert {str(one.message).split()[1] for one in caught} == {
            "d_channels",
            "e_changed",
            "g_no_common_sample",
            "h_gone",
        }

    def test_outputs_that_are_nan_shut_a_source_out(self):
        registry = ExpertRegistry(address())
        for name in "ab":
            registry_sources.publish(registry, name)
        registry.publish(
            Expert(Fragile(4), classes=CLASSES, features="body"),
            registry_sources.data(),
            "c",
            [0.0, 1.0],
            network=Fragile,
        )
        base = registry_sources.data()
        target = TensorDataModule({"train": (base.rows("train").inputs - 9, base.rows("train").targets)}, CLASSES)
        with pytest.warns(UserWarning, match="source c cannot be used: its representation or output is NaN"):
            found = select_sources(registry, target, 1.0, 2, statistics=[0.0, 1.0])
        assert list(found.experts) == ["a", "b"]

    @pytest.mark.parametrize("encoder_first", [False, True])
    def test_one_that_is_found_out_makes_place_for_the_next(self, tmp_path, encoder_first):
        registry = ExpertRegistry(str(tmp_path))
        for place, name in enumerate("abcd"):
            registry_sources.publish(registry, name, statistics=[float(place), 0.0])
        path = next((tmp_path / "a").rglob("head.safetensors"))
        path.write_bytes(path.read_bytes()[:-4])
        arguments = {"similarity": "euclid", "statistics": [0.0, 0.0], "encoder_first": encoder_first}
        with pytest.warns(UserWarning, match=r"source a cannot be used: source a: its card names head\.safetensors"):
            found = select_sources(registry, registry_sources.data(), 0.5, 1, **arguments)
        assert [row.name for row in found.table if row.kept] == (["b"] if encoder_first else ["b", "c"])
        assert list(found.experts) == ["b"]
        assert found.table[-1].name == "a"

    def test_fewer_than_wanted(self, pool, target):
        registry, *_ = pool
        with pytest.warns(UserWarning, match="selected 6 of 9 sources: no other of the 7 sources is eligible"):
            assert len(select(registry, target, num_sources=9).experts) == 6

    def test_an_expert_that_writes_into_its_input_harms_nobody(self):
        registry = ExpertRegistry(address())
        writer = Expert(Writer(4), classes=CLASSES, features="body")
        registry.publish(writer, registry_sources.data(), "a", [0.0, 1.0], network=Writer)
        registry_sources.publish(registry, "b")
        both = select_sources(registry, registry_sources.data(), 1.0, 1, statistics=[0.0, 1.0])
        alone = select_sources(registry, registry_sources.data(), 1.0, 1, statistics=[0.0, 1.0], exclude=["a"])
        assert next(row for row in both.table if row.name == "b").score == alone.table[0].score


class Channels(tiny.Net):
    """Takes 9 numbers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.body[0] = nn.Linear(9, 5)

    def forward(self, input):
        return super().forward(input.flatten(1))


class Fragile(tiny.Net):
    """Fails on some input."""

    def forward(self, input):
        return super().forward((input + 6).log())


class Writer(tiny.Net):
    """Changes what it is given."""

    def forward(self, input):
        return super().forward(input.zero_())


class TestReported:
    def test_as_plain_data_and_as_tables(self, pool, target):
        registry, *_ = pool
        found = select(registry, target, num_sources=2)
        written = json.loads(json.dumps(found.as_dict()))
        assert [row["name"] for row in written["table"]] == [row.name for row in found.table]
        assert written["ledger"]["saving"] == found.ledger.saving
        assert written["rank_by"] == "product"
        out = Console(file=io.StringIO(), width=160)
        out.print(found)
        text = out.file.getvalue()
        assert f"{found.ledger.saving:.0%} fewer bytes than all models" in text
        assert "shares no class with the target" in text
        lines = [line for line in text.splitlines() if "selected" in line]
        assert [line.split()[0] for line in lines] == list(found.experts)
        assert f"{found.table[0].score:.3f}" in lines[0]
        assert "Linear" not in repr(found)

    def test_classes_that_no_chosen_source_knows(self, pool, target):
        registry, *_ = pool
        others = [name for name in POOL if name != "cid"]
        assert select(registry, target, exclude=others, num_sources=1).uncovered == ["owl", "pig"]
        assert select(registry, target, num_sources=3).uncovered == []

    def test_other_preprocessing_is_named(self):
        registry = ExpertRegistry(address())
        for name, mean in (("a", 0.5), ("b", 0.1), ("c", None)):
            own = registry_sources.data()
            if mean is not None:
                own.preprocessing = {"mean": (mean,), "scale": 1.0}
            registry_sources.publish(registry, name, data=own)
        target = registry_sources.data()
        target.preprocessing = {"mean": (0.5,), "scale": 1.0}
        with pytest.warns(UserWarning) as caught:
            select_sources(registry, target, 1.0, 1, statistics=[0.0, 1.0])
        (message,) = (str(one.message) for one in caught)
        assert message == (
            "source(s) b were trained with another preprocessing than the target's: b differs in mean; "
            "give the same mean to the data modules of sources and target"
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"keep_fraction": 0.0}, "keep_fraction is 0.0; expected a fraction of the sources, above 0 and at most 1"),
            ({"keep_fraction": float("nan")}, "keep_fraction is nan"),
            ({"keep_fraction": 50}, "keep_fraction is 50"),
            ({"num_sources": 0}, "num_sources is 0; expected at least 1"),
            ({"similarity": "dot"}, "similarity is 'dot'; expected cosine, euclid, jaccard"),
            (
                {"rank_by": "best"},
                "rank_by is 'best'; expected product, evidence, centroid, accuracy, statistics and 1 more",
            ),
            (
                {"encoder_first": True, "rank_by": "accuracy"},
                "encoder_first ranks by centroids, but rank_by is 'accuracy'",
            ),
            ({"statistics": [math.nan, 1.0]}, r"statistics: number\(s\) 0 of 2 are NaN or infinite"),
            ({"statistics": None}, "TensorDataModule computes none"),
            (
                {"statistics": [1.0]},
                r"none of 7 .* eligible \(ann: its statistics are 8 numbers, the target's 1",
            ),
        ],
    )
    def test_arguments(self, pool, target, arguments, message):
        with pytest.raises(InputError, match=message):
            select(pool[0], target, **arguments)

    @pytest.mark.parametrize(("label", "what"), [(-100, "none at all"), (1, "only of class dog")])
    def test_a_target_without_labels_or_with_one_class(self, pool, label, what):
        target = TensorDataModule({"train": (torch.zeros(5, 4), torch.full((5,), label))}, CLASSES)
        with pytest.raises(InputError, match=f"its train split has labeled samples {what}; a"):
            select(pool[0], target)

    def test_an_empty_registry(self, target):
        with pytest.raises(InputError, match=r"registry: memory://.* has no source that can be read; publish"):
            select(ExpertRegistry(address()), target)

    def test_no_source_that_works(self, tmp_path, target):
        registry = ExpertRegistry(str(tmp_path))
        registry_sources.publish(registry, "a")
        next(tmp_path.rglob("encoder.safetensors")).write_bytes(b"")
        with (
            pytest.warns(UserWarning, match="source a cannot be used"),
            pytest.raises(InputError, match=r"registry: none of 1 sources can be used \(a: cannot be used: source a"),
        ):
            select(registry, target, statistics=[0.0, 1.0])


def test_a_data_module_that_keeps_its_labels_apart_is_asked_for_them(pool):
    """As the view of a target domain does: its rows are not read to find the labeled ones."""

    class Apart(TensorDataModule):
        def labeled(self):
            return super().rows("train")

        def rows(self, split):
            raise AssertionError("reads all rows")

    given = shifted(CLASSES, seed=11, labeled=10)
    rows = given.rows("train")
    some = Apart({"train": (rows.inputs[:10], rows.targets[:10])}, CLASSES, batch_size=given.batch_size)
    u = statistics(given)
    assert select(pool[0], some, statistics=u).table == select(pool[0], given, statistics=u).table


def test_a_source_with_other_names_of_its_classes_is_read_by_those_of_the_target():
    registry = ExpertRegistry(f"memory://{uuid.uuid4().hex}")
    given = registry_sources.publish(registry, "a", classes=["Katze", "Hund", "owl", "pig"])
    target = registry_sources.data()
    found = select_sources(registry, target, statistics=[1.0, 1.0], rename={"Katze": "cat", "Hund": "dog"})
    (expert,), (row,) = found.experts.values(), found.table
    x = torch.randn(3, 4)
    assert expert.classes == CLASSES and torch.equal(expert(x), given(x))
    assert row.coverage == 1 and row.centroid_similarity == pytest.approx(1)
    with pytest.raises(InputError, match="two of its classes would be owl by rename"):
        select_sources(registry, target, statistics=[1.0, 1.0], rename={"Katze": "owl"})
    with pytest.raises(
        InputError, match=r"rename: cat is no class of sources \(Katze, .*; give \{name in the sources: "
    ):
        select_sources(registry, target, statistics=[1.0, 1.0], rename={"cat": "Katze"})
    with pytest.raises(InputError, match=r"rename: Kuh is no class of the target \(cat, "):
        select_sources(registry, target, statistics=[1.0, 1.0], rename={"Katze": "Kuh"})


def test_a_source_that_reads_other_channels_is_named_by_its_card():
    registry, source, target = (
        ExpertRegistry(f"memory://{uuid.uuid4().hex}"),
        *map(registry_sources.data, [CLASSES] * 2),
    )
    source.preprocessing = {"channels": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1, 1, 1]}
    registry_sources.publish(registry, "a", data=source)
    target.preprocessing = {"channels": ["a", "b"], "mean": [0, 0], "std": [1, 1]}
    with pytest.raises(InputError, match=r"a: it reads the channels a, b, c, and the target has a, b\)"):
        select_sources(registry, target, statistics=[1.0, 1.0])
