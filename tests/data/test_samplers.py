from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.data.samplers import LengthSampler, SliceSampler


def sampler(num_rows: int, batch_size: int, rank: int = 0, world: int = 1, epoch: int = 0, **how: object) -> list:
    made = SliceSampler(num_rows, batch_size, **({"shuffle": True} | how))
    made.rank, made.num_replicas = rank, world
    made.set_epoch(epoch)
    batches = [batch.tolist() for batch in made]
    assert len(batches) == len(made)
    return batches


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


class TestLengthSampler:
    def test_batches_hold_similar_lengths_and_every_row_once(self):
        lengths = torch.randint(1, 200, (1003,), generator=torch.Generator().manual_seed(0))
        sampler = LengthSampler(1003, 16, shuffle=True, lengths=lengths)
        batches = list(sampler)
        assert len(batches) == len(sampler) and torch.equal(torch.cat(batches).sort().values, torch.arange(1003))
        assert np.mean([float(lengths[b].max() - lengths[b].min()) for b in batches[:-1]]) < 20
        sampler.set_epoch(1)
        other = list(sampler)
        sampler.set_epoch(0)
        assert all(map(torch.equal, batches, sampler)) and not torch.equal(batches[0], other[0])

    def test_two_processes_see_the_batches_of_one(self):
        lengths = torch.arange(50) % 7
        (one,) = (LengthSampler(50, 8, shuffle=True, lengths=lengths),)
        parts = [LengthSampler(50, 4, shuffle=True, lengths=lengths) for _ in range(2)]
        for rank, part in enumerate(parts):
            part.num_replicas, part.rank = 2, rank
        assert len(parts[0]) == len(parts[1]) == len(one)
        for whole, left, right in zip(one, *parts, strict=True):
            assert set(whole.tolist()) == {*left.tolist(), *right.tolist()}
