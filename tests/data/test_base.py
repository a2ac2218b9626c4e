from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rules

from lightning_fusion.data.base import Batch, FusionDataModule, RowDataset, TensorDataModule, as_batch
from lightning_fusion.data.samplers import SliceSampler, slice_loader
from lightning_fusion.data.splits import draw_class_subsets, stratified_sessions, stratified_split
from lightning_fusion.errors import InputError
from lightning_fusion.files import digest


def sampler(num_rows: int, batch_size: int, rank: int = 0, world: int = 1, epoch: int = 0, **how: object) -> list:
    made = SliceSampler(num_rows, batch_size, **({"shuffle": True} | how))
    made.rank, made.num_replicas = rank, world
    made.set_epoch(epoch)
    batches = [batch.tolist() for batch in made]
    assert len(batches) == len(made)
    return batches


class TestStratifiedSessions:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
    def test_every_scope_has_its_shares(self, count, num_classes, scopes, seed):
        generator = np.random.default_rng(seed)
        counts = generator.integers(1, 9, (count * scopes, max(2, num_classes)))
        scope = np.repeat(np.arange(scopes) * 7, count)
        split = stratified_sessions(counts, scope, 0.1, 0.2, seed)
        for number in range(scopes):
            tests = min(max(round(0.2 * count), 1), count - 1)
            vals = min(max(round(0.1 * count), 1), count - tests - 1)
            assert np.bincount(split[scope == number * 7], minlength=3).tolist() == [count - tests - vals, vals, tests]

    @pytest.mark.parametrize("seed", range(10))
    def test_a_rare_class_stays_in_training_and_shares_are_near(self, seed):
        counts = np.random.default_rng(seed).integers(5, 15, (20, 3))
        counts[:, 2] = 0
        counts[7, 2] = 4
        split = stratified_sessions(counts, np.zeros(20), 0.1, 0.2, seed)
        assert split[7] == 0
        shares = counts[split == 2].sum(0)[:2] / counts.sum(0)[:2]
        np.testing.assert_allclose(shares, 0.2, atol=0.06)

    def test_sessions_of_one_class_are_drawn_class_by_class_and_empty_ones_train(self):
        counts = np.repeat([[3, 0], [0, 3], [0, 0]], [20, 10, 5], axis=0)
        split = stratified_sessions(counts, np.zeros(35), 0.1, 0.2, seed=3)
        assert [
            np.bincount(split[part], minlength=3).tolist() for part in (slice(20), slice(20, 30), slice(30, 35))
        ] == [
            [14, 2, 4],
            [7, 1, 2],
            [5, 0, 0],
        ]

    def test_is_a_function_of_the_seed(self):
        counts = np.random.default_rng(0).integers(1, 9, (30, 3))
        one, same, other = (stratified_sessions(counts, np.zeros(30), 0.1, 0.2, seed).tolist() for seed in (1, 1, 2))
        assert one == same != other


class TestStratifiedSplit:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 3), max_size=40), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]), st.integers(0, 9))
    def test_holds_out_the_share_of_every_stratum(self, strata, share, seed):
        kept, held = stratified_split(np.array(strata, int), share, seed)
        assert sorted([*kept, *held]) == list(range(len(strata)))
        counts = Counter(strata[row] for row in held)
        assert {stratum: counts[stratum] for stratum in set(strata)} == rules.split(strata, share)

    def test_is_a_function_of_the_seed(self):
        strata = np.arange(100) % 5
        one, same, other = (stratified_split(strata, 0.3, seed)[1].tolist() for seed in (1, 1, 2))
        assert one == same != other


class TestDrawClassSubsets:
    @pytest.mark.parametrize("seed", range(5))
    def test_covers_every_class_with_equal_subsets(self, seed):
        member = draw_class_subsets(10, 5, 4, seed=seed)
        assert member.sum(0).tolist() == [4] * 5
        assert member.any(1).all()

    @pytest.mark.parametrize("seed", range(5))
    def test_each_domain_has_a_class_of_each_group(self, seed):
        groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
        member = draw_class_subsets(9, 4, 5, groups, seed)
        assert member.sum(0).tolist() == [5] * 4
        for group in range(3):
            assert member[groups == group].any(0).all()

    def test_first_picks_of_a_group_are_uniform(self):
        groups = np.repeat(np.arange(2), 3)
        counts = sum(draw_class_subsets(6, 30, 2, groups, seed).sum(1) for seed in range(40))
        assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 2 / 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((10, 2, 4), "2 domains of 4 classes cannot cover 10 classes"),
            ((4, 3, 5), "3 domains of 5 classes cannot cover 4"),
            ((4, 3, 2, np.arange(4)), "one of each of the 4 super-classes"),
        ],
    )
    def test_refuses_what_cannot_be_covered(self, arguments, message):
        with pytest.raises(InputError, match=message):
            draw_class_subsets(*arguments)


class TestSliceSampler:
    @pytest.mark.parametrize(("rows", "sizes"), [(33, [16, 15, 2]), (34, [16, 16, 2]), (17, [15, 2]), (1, [1])])
    def test_no_last_training_batch_has_one_row(self, rows, sizes):
        """Batch norm refuses to train on it."""
        made = SliceSampler(rows, 16, shuffle=True)
        batches = list(made)
        assert [len(batch) for batch in batches] == sizes and len(made) == len(sizes)
        assert sorted(torch.cat(batches).tolist()) == list(range(rows))
        plain = [len(batch) for batch in SliceSampler(rows, 16, shuffle=False)]
        assert plain == [16] * (rows // 16) + [rows % 16] * (rows % 16 > 0)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 25), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
    def test_processes_see_the_global_batches_of_one(self, num_rows, batch_size, world, epoch):
        single = sampler(num_rows, batch_size * world, epoch=epoch)
        shards = [sampler(num_rows, batch_size, rank, world, epoch) for rank in range(world)]
        assert len({len(shard) for shard in shards}) == 1
        padding = -num_rows % world
        for number, parts in enumerate(zip(*shards, strict=True)):
            assert len({len(part) for part in parts}) == 1
            together = Counter(row for part in parts for row in part)
            if number < len(single) - 2:  # the last but one may have given a row to the last
                assert together == Counter(single[number])
        seen = Counter(row for shard in shards for batch in shard for row in batch)
        assert set(seen) == set(range(num_rows))
        assert sum(seen.values()) == num_rows + padding

    def test_padding_repeats_the_first_rows(self):
        assert [sampler(5, 2, rank, 2, shuffle=False) for rank in range(2)] == [[[0, 2], [4]], [[1, 3], [0]]]
        assert [sampler(1, 2, rank, 3, shuffle=False) for rank in range(3)] == [[[0]]] * 3

    def test_order_is_a_function_of_seed_and_epoch(self):
        def order(seed, epoch):
            return sampler(50, 50, epoch=epoch, seed=seed)[0]

        first = order(1, 2)
        torch.rand(3)
        assert order(1, 2) == first
        assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
        assert sorted(first) == list(range(50))

    def test_without_rows_there_is_no_batch(self):
        assert sampler(0, 4) == []


class TestBatches:
    def test_a_loader_gives_slices_with_stable_indices(self):
        rows = torch.tensor([3, 1, 4])
        data = RowDataset(torch.arange(10.0), torch.arange(10), torch.ones(10, 1, dtype=torch.bool), rows)
        batches = list(slice_loader(data, batch_size=2, shuffle=False))
        assert [batch.index.tolist() for batch in batches] == [[3, 1], [4]]
        assert [batch.input.tolist() for batch in batches] == [[3.0, 1.0], [4.0]]
        assert isinstance(batches[0], Batch)

    def test_worker_processes_give_the_same_batches(self):
        data = tiny.data()
        here = [batch.index.tolist() for batch in data.train_dataloader()]
        data.num_workers = 1
        assert [batch.index.tolist() for batch in data.train_dataloader()] == here

    def test_a_tuple_of_four_is_a_batch(self):
        four = [torch.zeros(2), torch.zeros(2), torch.zeros(2, 0), torch.arange(2)]
        assert as_batch(four, "the loader") == Batch(*four)

    @pytest.mark.parametrize(("found", "name"), [((1, 2), "a tuple of 2"), (torch.zeros(2), "Tensor"), ({}, "dict")])
    def test_anything_else_is_refused(self, found, name):
        with pytest.raises(InputError, match=f"the train loader yields {name}; expected lightning_fusion.Batch"):
            as_batch(found, "the train loader")


class TestTensorDataModule:
    def test_indices_are_unique_over_splits(self):
        data = tiny.data()
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        index = [row for loader in loaders for batch in loader for row in batch.index.tolist()]
        assert sorted(index) == list(range(sum(tiny.ROWS.values())))

    def test_fingerprint_follows_the_content(self):
        assert tiny.data(0).fingerprint("train") == tiny.data(0, batch_size=9).fingerprint("train")
        assert len({tiny.data(seed).fingerprint(split) for seed in (0, 1) for split in tiny.ROWS}) == 6

    def test_lengths_must_agree(self):
        with pytest.raises(InputError, match=r"split train: expected .* of one length; found 3, 2"):
            TensorDataModule({"train": (torch.zeros(3, 4), torch.zeros(2))}, classes=["cat"])

    def test_names_the_splits_there_are(self):
        with pytest.raises(InputError, match="no split 'val'; the tensors have train"):
            TensorDataModule({"train": (torch.zeros(2), torch.zeros(2))}, classes=["cat"]).val_dataloader()


@pytest.mark.parametrize("member", ["classes", "domains", "rows", "fingerprint"])
def test_a_data_module_says_what_it_must_implement(member):
    class Mine(FusionDataModule):
        pass

    with pytest.raises(NotImplementedError, match=f"Mine must implement .*{member}"):
        value = getattr(Mine(), member)
        value("train")


def test_digest_tells_content_shape_type_and_order_apart():
    parts = [
        (np.arange(6),),
        (np.arange(6).reshape(2, 3),),
        (np.arange(6, dtype=np.int32),),
        (torch.arange(6),),
        (torch.arange(6).bool(),),
        (torch.arange(6).bfloat16(),),
        ("a", "b"),
        ("b", "a"),
        ("ab",),
        (torch.tensor(1.0),),
        (torch.zeros(0),),
    ]
    # arrays and tensors of the same content may share a fingerprint; nothing else may
    assert len({digest(*part) for part in parts}) >= len(parts) - 1
    assert digest(np.arange(6)[::2]) == digest(np.array([0, 2, 4]))
