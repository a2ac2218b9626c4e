"""A run of collect that was killed or failed is resumed: no answer is queried twice, and the result is the same."""

import errno
import logging
import os
import re
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.interrupted import SAMPLES, answer, collect_logged
from helpers.interrupted import samples as data
from helpers.processes import start, together, wait_for
from torch.utils.data import DataLoader, Dataset

from lightning_fusion import Batch, Expert, ExpertOutputs, ExpertPool, collect
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs import journal as journals

CLASSES = ["cat", "dog"]
ROWS = SAMPLES


class Service:
    """A remote expert that counts how often it was queried for each sample, and fails at some."""

    def __init__(self, shift: float = 0.0, fails: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        self.shift, self.fails, self.error = shift, fails, error
        self.queried: Counter[float] = Counter()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails is not None and self.fails in x[:, 0].tolist():
            raise self.error("the service is down")
        self.queried.update(x[:, 0].tolist())
        return answer(x, self.shift)


def expert(service: Service, version: str = "v1") -> Expert:
    return Expert(service, classes=CLASSES, output="probabilities", version=version)


def pool_of(**services: Service) -> ExpertPool:
    return ExpertPool({name: expert(service, name) for name, service in services.items()}, CLASSES)


class FailingNet(tiny.CountingNet):
    """A network that fails at its third batch."""

    calls = 0

    def forward(self, input):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("out of memory, say")
        return super().forward(input)


class ShuffledRows(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, row):
        return Batch(torch.tensor([float(row)]), row % 2, torch.zeros(0), row)


class Shuffled(TensorDataModule):
    """A loader that draws another order every time."""

    def __init__(self) -> None:
        super().__init__({"train": (torch.zeros(20, 1), torch.zeros(20).long(), torch.zeros(20, 0))}, CLASSES, [])

    def fingerprint(self, split):
        return "shuffled"

    def train_dataloader(self):
        return DataLoader(ShuffledRows(), batch_size=4, shuffle=True)


def run(pool, folder, using=None, **arguments) -> ExpertOutputs:
    using = data() if using is None else using
    arguments.setdefault("splits", ["train", "test"])
    return collect(pool, using, folder, trainer=arguments.pop("trainer", None) or tiny.trainer(), **arguments)


def equal(one: ExpertOutputs, other: ExpertOutputs) -> bool:
    """Whether two stores have the same facts and, bit for bit, the same arrays."""
    if one.metadata() != other.metadata():
        return False
    pairs = [(dict(one[split].arrays()), dict(other[split].arrays())) for split in one.splits]
    return all(list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a) for a, b in pairs)


def once(*services: Service) -> bool:
    return all(set(service.queried.values()) <= {1} for service in services)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


class TestFailures:
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_of_one_expert(self, tmp_path, caplog, error):
        a, b = Service(), Service(1, fails=13, error=error)
        with pytest.raises((InputError, SystemExit)):
            run(pool_of(a=a, b=b), tmp_path)
        assert len(a.queried) == 16 and len(b.queried) == 12  # of 20: the batch of 12 to 15 was the fourth
        b.fails = None
        with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
            found = run(pool_of(a=a, b=b), tmp_path)
        assert "16 of 32 answers of expert a; 12 of 32 answers of expert b were stored by an earlier run" in caplog.text
        assert once(a, b) and len(a.queried) == len(b.queried) == 32
        assert equal(found, run(pool_of(a=Service(), b=Service(1)), None))
        assert leftovers(tmp_path) == [".lock", "data", "manifest.json"]

    def test_of_a_network_keep_the_batch_of_the_others(self, tmp_path):
        torch.manual_seed(0)
        counting, failing = tiny.CountingNet(2), FailingNet(2)
        pool = ExpertPool({"a": Expert(counting, classes=CLASSES), "b": Expert(failing, classes=CLASSES)})
        samples = {"test": (torch.randn(20, 4), torch.arange(20) % 2, torch.zeros(20, 0))}
        for _ in range(2):
            using = TensorDataModule(samples, CLASSES, [], batch_size=4)
            if not failing.calls:
                with pytest.raises(InputError, match=r"expert b failed on a batch .*out of memory, say"):
                    run(pool, tmp_path, using, splits=["test"])
                assert counting.rows == 12
        found = run(pool, tmp_path, using, splits=["test"])
        assert counting.rows == failing.rows == 20
        assert equal(found, run(pool, None, using, splits=["test"]))

    def test_of_single_samples_keep_the_valid_rows_of_a_call(self, tmp_path):
        class Partly(Service):
            def __call__(self, x):
                answer = super().__call__(x)
                return torch.where(x == 5, float("nan"), answer) if self.fails is None else answer

        service = Partly()
        with pytest.raises(InputError, match="returned NaN or None"):
            run(pool_of(a=service), tmp_path)
        service.fails = -1  # from now on it is well
        run(pool_of(a=service), tmp_path)
        assert {value for value, count in service.queried.items() if count > 1} == {5.0}

    def test_a_shuffled_loader_resumes_by_index(self, tmp_path):
        service = Service(fails=11)
        with pytest.raises(InputError, match="the service is down"):
            run(pool_of(a=service), tmp_path, Shuffled(), splits=["train"])
        service.fails = None
        found = run(pool_of(a=service), tmp_path, Shuffled(), splits=["train"])
        assert once(service) and len(service.queried) == 20
        assert equal(found, run(pool_of(a=Service()), None, Shuffled(), splits=["train"]))

    def test_other_batches_query_only_what_is_lacking(self, tmp_path):
        service = Service(fails=13)
        with pytest.raises(InputError):
            run(pool_of(a=service), tmp_path)
        service.fails = None
        run(pool_of(a=service), tmp_path, data(batch_size=7))
        assert once(service) and len(service.queried) == 32

    def test_representations_are_resumed(self, tmp_path):
        torch.manual_seed(0)
        nets = [tiny.CountingNet(2), FailingNet(2)]
        pool = ExpertPool(
            {name: Expert(net, classes=CLASSES, features="net.body") for name, net in zip("ab", nets, strict=True)}
        )
        samples = {"test": (torch.randn(20, 4), torch.arange(20) % 2, torch.zeros(20, 0))}
        using = TensorDataModule(samples, CLASSES, [], batch_size=4)
        with pytest.raises(InputError, match="out of memory, say"):
            run(pool, tmp_path, using, splits=["test"], keep_representations=True)
        found = run(pool, tmp_path, using, splits=["test"], keep_representations=True)
        assert [net.rows for net in nets] == [20, 20]
        expected = run(pool, None, using, splits=["test"], keep_representations=True)
        assert equal(found, expected) and found["test"].representations["b"].shape == (20, 5)

    @pytest.mark.parametrize("kind", [9, 10, 11])  # of samples, of values, of a record of answers
    def test_a_full_disk(self, tmp_path, monkeypatch, kind):
        service, calls = Service(), []
        write = journals._write_all

        def full(file, content):
            calls.append(len(content))
            if len(calls) == kind:
                file.write(bytes(content)[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, content)

        monkeypatch.setattr(journals, "_write_all", full)
        with pytest.raises(InputError, match=r"no space left on the disk \(\d+ bytes needed, [\d,]+ free\)"):
            run(pool_of(a=service), tmp_path)
        lost = set(service.queried)
        run(pool_of(a=service), tmp_path)
        again = {value for value, count in service.queried.items() if count > 1}
        assert len(again) <= 4 and again <= lost  # the batch whose answers found no room

    def test_a_full_disk_at_the_end_leaves_the_answers(self, tmp_path, monkeypatch):
        service = Service()
        with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left on the disk"):
            patch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            run(pool_of(a=service), tmp_path)
        assert leftovers(tmp_path) == [".answers", ".lock"]
        run(pool_of(a=service), tmp_path)
        assert once(service) and len(service.queried) == 32

    def test_a_first_failure_leaves_no_journal(self, tmp_path):
        with pytest.raises(InputError):
            run(pool_of(a=Service(fails=0)), tmp_path)
        assert not list((tmp_path / ".answers").glob("*"))


class TestPools:
    def test_a_new_expert_is_the_only_one_that_runs(self, tmp_path, caplog):
        a, b, c = Service(), Service(1), Service(2)
        run(pool_of(a=a, b=b), tmp_path)
        with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
            found = run(pool_of(c=c, a=a, b=b), tmp_path)
        assert "32 of 32 answers of each of the experts a, b were stored by an earlier run" in caplog.text
        assert once(a, b, c) and len(c.queried) == 32 and found.names == ["c", "a", "b"]
        assert equal(found, run(pool_of(c=Service(2), a=Service(), b=Service(1)), None))

    def test_a_new_expert_that_fails_leaves_the_store_and_is_resumed(self, tmp_path):
        a, c = Service(), Service(2, fails=1005)
        run(pool_of(a=a), tmp_path)
        with pytest.raises(InputError):
            run(pool_of(a=a, c=c), tmp_path)
        assert ExpertOutputs.open(tmp_path).names == ["a"]
        c.fails = None
        run(pool_of(a=a, c=c), tmp_path)
        assert once(a, c)

    def test_a_removed_expert_returns_without_a_query(self, tmp_path):
        a, b = Service(), Service(1)
        expected = run(pool_of(a=a, b=b), tmp_path)
        bits = {split: np.array(expected[split].probabilities["b"]) for split in ROWS}
        alone = run(pool_of(a=a), tmp_path)
        assert (
            alone.names == ["a"]
            and list(alone["test"].probabilities) == ["a"]
            and alone["test"].missing.shape == (12, 1)
        )
        assert ExpertOutputs.open(tmp_path).names == ["a"]
        both = run(pool_of(a=a, b=b), tmp_path)
        assert once(a, b) and not both.former
        assert all(both[split].probabilities["b"].tobytes() == bits[split].tobytes() for split in ROWS)

    def test_a_renamed_network_is_known_by_its_fingerprint(self, tmp_path):
        net = tiny.CountingNet(2)
        experts = {"a": Expert(net, classes=CLASSES), "b": Expert(tiny.CountingNet(2), classes=CLASSES)}
        samples = {"test": (torch.randn(20, 4), torch.arange(20) % 2)}
        collect(ExpertPool(experts, CLASSES), samples, tmp_path, trainer=tiny.trainer())
        before = net.rows
        renamed = ExpertPool({"first": experts["a"], "b": experts["b"]}, CLASSES)
        assert collect(renamed, samples, tmp_path, trainer=tiny.trainer()).names == ["first", "b"]
        assert net.rows == before == 20

    def test_a_renamed_function_with_a_version_is_an_error(self, tmp_path):
        a, b = Service(), Service(1)
        run(pool_of(a=a, b=b), tmp_path)
        with pytest.raises(InputError, match="experts: first has the code and the version of a, whose answers are sto"):
            run(ExpertPool({"first": expert(a, "a"), "b": expert(b, "b")}, CLASSES), tmp_path)
        assert once(a, b)

    def test_a_changed_expert_is_rejected_with_both_fingerprints_and_can_be_renamed(self, tmp_path):
        a, b = Service(), Service(1, fails=1005)
        with pytest.raises(InputError, match="the service is down"):
            run(pool_of(a=a, b=b), tmp_path)
        changed = ExpertPool({"a": expert(a, "a"), "b": expert(Service(2), "corrected")}, CLASSES)
        prints = pool_of(b=b).metadata()["b"]["fingerprint"], changed.metadata()["b"]["fingerprint"]
        message = f"from another expert b: its fingerprint is {prints[0]}, the pool's {prints[1]}; give .* another name"
        with pytest.raises(InputError, match=message):
            run(changed, tmp_path)
        corrected = Service(2)
        run(ExpertPool({"a": expert(a, "a"), "b2": expert(corrected, "corrected")}, CLASSES), tmp_path)
        assert once(a, corrected)

    def test_other_data_are_rejected_with_both_fingerprints(self, tmp_path):
        with pytest.raises(InputError, match="the service is down"):
            run(pool_of(a=Service(fails=13)), tmp_path)
        other = data(ROWS | {"train": 19})
        prints = data().fingerprint("train"), other.fingerprint("train")
        with pytest.raises(
            InputError, match=f"other data: the fingerprint of train is {prints[0]} there and {prints[1]}"
        ):
            run(pool_of(a=Service()), tmp_path, other)
        service = Service()
        run(pool_of(a=service), tmp_path, other, overwrite=True)
        assert len(service.queried) == 31

    def test_another_precision_is_rejected(self, tmp_path):
        with pytest.raises(InputError, match="the service is down"):
            run(pool_of(a=Service(fails=13)), tmp_path)
        with pytest.raises(InputError, match=r"trainer.precision: found bf16-mixed; .* received with 32-true"):
            run(pool_of(a=Service()), tmp_path, trainer=tiny.trainer(precision="bf16-mixed"))


class TestRequests:
    def test_a_new_split_is_the_only_one_that_runs(self, tmp_path):
        a = Service()
        run(pool_of(a=a), tmp_path, splits=["train"])
        found = run(pool_of(a=a), tmp_path, splits=["test"])
        assert once(a) and list(found.splits) == ["train", "test"] and len(a.queried) == 32
        assert equal(found, run(pool_of(a=Service()), None))

    def test_a_new_expert_needs_the_splits_of_the_store(self, tmp_path):
        run(pool_of(a=Service()), tmp_path)
        with pytest.raises(
            InputError, match=r"splits: the store .* has the split\(s\) train as well, and no outputs of"
        ):
            run(pool_of(a=Service(), b=Service(1)), tmp_path, splits=["test"])

    def test_missing_answers_are_queried_again_where_wanted(self, tmp_path):
        a, b = Service(), Service(1, fails=5)
        with pytest.warns(UserWarning, match="answers of expert b are missing: 1 of 20 in train"):
            run(pool_of(a=a, b=b), tmp_path, on_failure="skip")
        b.fails = None
        with pytest.warns(UserWarning, match="they stay missing: retry_missing"):
            assert run(pool_of(a=a, b=b), tmp_path)["train"].missing.sum() == 1
        found = run(pool_of(a=a, b=b), tmp_path, retry_missing=True)
        assert once(a, b) and not found["train"].missing.any()
        assert equal(found, run(pool_of(a=Service(), b=Service(1)), None))
        calls = sum(b.queried.values())
        run(pool_of(a=a, b=b), tmp_path, retry_missing=True)
        assert sum(b.queried.values()) == calls

    @pytest.mark.slow
    def test_representations_that_come_later_leave_the_answers_of_other_experts(self, tmp_path):
        pool, using = tiny.pool(features="body"), tiny.data()
        collect(pool, using, tmp_path, trainer=tiny.trainer())
        found = collect(pool, using, tmp_path, keep_representations=True, trainer=tiny.trainer())
        expected = collect(pool, using, None, keep_representations=True, trainer=tiny.trainer())
        assert equal(found, expected)
        more = ExpertPool({**pool.members, "c": tiny.pool(1).members["a"]}, tiny.CLASSES)
        assert set(collect(more, using, tmp_path, trainer=tiny.trainer())["val"].representations) == {"a", "b"}

    def test_overwrite_resumes_only_a_run_of_its_kind(self, tmp_path):
        a = Service(fails=13)
        with pytest.raises(InputError):
            run(pool_of(a=a), tmp_path)
        with pytest.raises(InputError):
            run(pool_of(a=a), tmp_path, overwrite=True)
        assert set(a.queried.values()) == {2}  # it starts again
        a.fails = None
        run(pool_of(a=a), tmp_path, overwrite=True)
        assert Counter(a.queried.values()) == {2: 12, 1: 20}  # and is resumed
        run(pool_of(a=a), tmp_path, overwrite=True)
        assert Counter(a.queried.values()) == {3: 12, 2: 20}


class TestJournals:
    @pytest.fixture
    def interrupted(self, tmp_path):
        with pytest.raises(InputError):
            run(pool_of(a=Service(fails=1005)), tmp_path)
        (path,) = (tmp_path / ".answers").glob("*.journal")
        return path

    def again(self, path: Path) -> Service:
        service = Service()
        found = run(pool_of(a=service), path.parent.parent)
        assert equal(found, run(pool_of(a=Service()), None))
        return service

    @pytest.mark.parametrize(("torn", "queried"), [(1, 8), (150, 12)])
    def test_a_torn_tail_is_left_out(self, interrupted, recwarn, torn, queried):
        """The last record is of the samples of a batch without answers; the one before of 4 answers."""
        content = interrupted.read_bytes()
        interrupted.write_bytes(content[:-torn])
        assert len(self.again(interrupted).queried) == queried
        assert not [each for each in recwarn if "damaged" in str(each.message)]

    @pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
    @pytest.mark.parametrize("values", [False, True])
    def test_damage_costs_the_damaged_record_alone(self, interrupted, place, values):
        file = interrupted.with_suffix(".0.0.bin") if values else interrupted
        content = bytearray(file.read_bytes())
        content[int(len(content) * place)] ^= 4
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"\d record\(s\) are damaged; the answers in them are queried again"):
            service = self.again(interrupted)
        assert len(service.queried) in (8, 12)  # of samples or of answers

    def test_lost_values_are_queried_again(self, interrupted):
        interrupted.with_suffix(".1.0.bin").unlink()
        with pytest.warns(UserWarning, match="1 record"):
            assert len(self.again(interrupted).queried) == 12

    def test_a_damaged_header_is_reported(self, interrupted):
        content = bytearray(interrupted.read_bytes())
        content[40] ^= 1
        interrupted.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged: the answers in it cannot be read, and are queried again"):
            assert len(self.again(interrupted).queried) == 32


@pytest.mark.slow
@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGKILL, 2)])
def test_a_killed_process(tmp_path, number, processes):
    pause = 1 if number == signal.SIGTERM else 60  # SIGTERM: the run ends after the call
    (process,) = start(tmp_path / "killed", collect_logged, tmp_path, pause)
    wait_for(tmp_path / "killed/half-way", process)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode
    said = together(tmp_path / "again", collect_logged, tmp_path, 0.0, processes, processes=processes)
    assert re.search("28 of 32 answers of (expert a|each of the experts a, b)", said[0])
    counts = Counter((tmp_path / "log").read_text().split("\n"))
    lost = {line for line, count in counts.items() if count > 1}
    called = {f"1.0 {1004.0 + number}" for number in range(4)}  # the call during which the process ended
    assert lost == (set() if number == signal.SIGTERM else called)
    found = ExpertOutputs.open(tmp_path / "store")
    other = run(pool_of(a=Service(), b=Service(1)), None)
    for split in ROWS:
        same = np.array_equal if processes == 1 else np.allclose
        assert same(found.concatenated(split), other.concatenated(split))
