import numpy as np
import torch

from lightning_fusion.data.samplers import LengthSampler


class TestOrder:
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
