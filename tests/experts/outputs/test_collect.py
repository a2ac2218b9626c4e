from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import interrupted, tiny, training_script
from helpers.processes import start, together, wait_for
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from lightning_fusion import Batch, Expert, ExpertOutputs, ExpertPool, collect
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError


def counting() -> tuple[ExpertPool, list[tiny.CountingNet]]:
    """A pool that knows how many rows it was asked about."""
    torch.manual_seed(0)
    nets = [tiny.CountingNet(2), tiny.CountingNet(2)]
    pairs = zip(tiny.EXPERT_CLASSES.items(), nets, strict=True)
    return ExpertPool({name: Expert(net, classes=classes) for (name, classes), net in pairs}, tiny.CLASSES), nets


def ask(pool, data, output=None, **arguments) -> ExpertOutputs:
    return collect(pool, data, output, trainer=arguments.pop("trainer", None) or tiny.trainer(), **arguments)


class Foreign(LightningDataModule):
    """Somebody's own data module: shuffled loaders of four-tuples, no fingerprint, no classes."""

    def __init__(self, seed: int = 0, batch_size: int = 5, first: int = 0, **loader: object) -> None:
        super().__init__()
        self.parts = {
            split: TensorDataset(input, target, domain, torch.arange(first, first + len(target)))
            for split, (input, target, domain) in tiny.tensors(seed).items()
        }
        self.how = {"batch_size": batch_size, "shuffle": True} | loader

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.parts["train"], **self.how)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts["val"], **self.how)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts["test"], **self.how)


class TestAnswers:
    def test_every_row_of_every_split_is_what_the_pool_says(self, tmp_path):
        pool, data = tiny.pool(features="body"), tiny.data()
        outputs = ask(pool, data, tmp_path, keep_representations=True)
        for split in tiny.ROWS:
            rows = data.rows(split)
            answers, representations = pool.forward_with_representations(rows.inputs)
            part = outputs[split]
            assert np.array_equal(part.target, rows.targets)
            assert np.array_equal(part.domain, rows.domains)
            assert np.array_equal(part.index, rows.index)
            for name in pool.names:
                np.testing.assert_allclose(part.probabilities[name], answers[name], rtol=1e-5)
                np.testing.assert_allclose(part.representations[name], representations[name], rtol=1e-5)
        assert outputs.experts == pool.metadata()
        assert (outputs.classes, outputs.domains) == (tiny.CLASSES, tiny.DOMAINS)

    def test_tensors_will_do(self):
        inputs, targets, _ = tiny.tensors()["test"]
        outputs = ask(tiny.pool(), {"test": (inputs, targets)})
        assert list(outputs.splits) == ["test"]
        assert np.array_equal(outputs["test"].target, targets)
        np.testing.assert_allclose(outputs["test"].probabilities["a"], tiny.pool()(inputs)["a"], rtol=1e-5)

    def test_dicts_of_tensors_are_inputs_too(self):
        class Rows(Dataset):
            def __len__(self):
                return 6

            def __getitem__(self, row):
                return Batch({"one": torch.full((2,), float(row)), "two": torch.ones(2)}, row % 2, torch.zeros(0), row)

        class Data(LightningDataModule):
            def test_dataloader(self):
                return DataLoader(Rows(), batch_size=4)

        pool = ExpertPool(
            {"a": Expert(lambda x: x["one"] * torch.tensor([1.0, 0.5]) * x["two"], classes=["no", "yes"])}
        )
        outputs = ask(pool, Data(), splits=["test"])
        expected = (torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.5])).softmax(1)
        np.testing.assert_allclose(outputs["test"].probabilities["a"], expected, rtol=1e-6)
        assert outputs["test"].target.tolist() == [0, 1] * 3

    def test_a_temporary_store_lives_as_long_as_the_result(self):
        outputs = ask(tiny.pool(), tiny.data())
        folder = Path(outputs.path)
        assert (folder / "manifest.json").is_file()
        outputs._keep.cleanup()
        assert not folder.exists()

    def test_the_data_modules_vocabulary_is_the_tasks(self):
        data = TensorDataModule(tiny.tensors(), ["owl", "dog", "cat"], tiny.DOMAINS)
        outputs = ask(tiny.pool(), data)
        assert outputs.classes == ["owl", "dog", "cat"]
        assert np.array_equal(outputs.scattered("test")[:, 0, 2], outputs["test"].probabilities["a"][:, 0])

    def test_bfloat16_gives_close_answers(self):
        full, half = (
            ask(tiny.pool(), tiny.data(), trainer=tiny.trainer(precision=p)) for p in ("32-true", "bf16-mixed")
        )
        for name in full.names:
            values = half["test"].probabilities[name]
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, full["test"].probabilities[name], atol=0.02)
            assert not np.array_equal(values, full["test"].probabilities[name])


class TestOnce:
    def test_a_second_collect_asks_no_expert(self, tmp_path):
        pool, nets = counting()
        first = ask(pool, tiny.data(), tmp_path)
        assert [net.rows for net in nets] == [sum(tiny.ROWS.values())] * 2
        again = ask(pool, tiny.data(batch_size=7), tmp_path)
        assert [net.rows for net in nets] == [sum(tiny.ROWS.values())] * 2
        assert np.array_equal(first.concatenated("train"), again.concatenated("train"))

    def test_another_pool_is_rejected_unless_overwrite(self, tmp_path):
        pool, other = tiny.pool(0), tiny.pool(1)
        ask(pool, tiny.data(), tmp_path)
        theirs, ours = (p.metadata()["a"]["fingerprint"] for p in (pool, other))
        with pytest.raises(InputError, match=f"its fingerprint is {theirs}, the pool's {ours}"):
            ask(other, tiny.data(), tmp_path)
        ExpertOutputs.open(tmp_path).check_pool(pool)
        ask(other, tiny.data(), tmp_path, overwrite=True).check_pool(other)

    @pytest.mark.parametrize("make", [tiny.data, Foreign])
    def test_other_data_are_rejected_with_both_fingerprints(self, tmp_path, make):
        first = ask(tiny.pool(), make(0), tmp_path).fingerprints
        with pytest.raises(InputError, match=f"the fingerprint of train is {first['train']} there and [0-9a-f]+ here"):
            ask(tiny.pool(), make(1), tmp_path)

    def test_domains_of_other_names_are_rejected(self, tmp_path):
        def data(domains: list[str]) -> TensorDataModule:
            return TensorDataModule(tiny.tensors(), tiny.CLASSES, domains)

        ask(tiny.pool(), data(tiny.DOMAINS), tmp_path)
        ask(tiny.pool(), data(tiny.DOMAINS), tmp_path)
        with pytest.raises(InputError, match=r"has the domains .*; the data have .*: collect again with overwrite"):
            ask(tiny.pool(), data(tiny.DOMAINS[::-1]), tmp_path)
        assert ask(tiny.pool(), data(tiny.DOMAINS[::-1]), tmp_path, overwrite=True).domains == tiny.DOMAINS[::-1]

    @pytest.mark.slow
    def test_representations_are_added_to_a_store_without(self, tmp_path):
        pool = tiny.pool(features="body")
        ask(pool, tiny.data(), tmp_path)
        added = ask(pool, tiny.data(), tmp_path, keep_representations=True)
        expected = ask(pool, tiny.data(), keep_representations=True)
        for split in tiny.ROWS:
            assert np.array_equal(
                added.concatenated(split, representations=True), expected.concatenated(split, representations=True)
            )
        ask(pool, tiny.data(), tmp_path)  # a store with representations answers those who want none

    def test_a_damaged_manifest_stops_before_any_expert_is_asked(self, tmp_path):
        pool, nets = counting()
        ask(pool, tiny.data(), tmp_path)
        asked = nets[0].rows
        (tmp_path / "manifest.json").write_text('{"format": 1,')
        with pytest.raises(InputError, match=r"manifest.json is damaged"):
            ask(pool, tiny.data(), tmp_path)
        assert nets[0].rows == asked


class TestForeignData:
    def test_a_shuffled_loader_gives_the_ordered_store(self, tmp_path):
        own, foreign = ask(tiny.pool(), tiny.data()), ask(tiny.pool(), Foreign(), tmp_path)
        for split in tiny.ROWS:
            assert foreign[split].index.tolist() == list(range(tiny.ROWS[split]))
            assert np.array_equal(foreign[split].target, own[split].target)
            np.testing.assert_allclose(foreign.concatenated(split), own.concatenated(split), rtol=1e-5)

    def test_its_fingerprint_does_not_depend_on_order_or_batches(self, tmp_path):
        pool, nets = counting()
        prints = ask(pool, Foreign(), tmp_path).fingerprints
        asked = nets[0].rows
        assert ask(pool, Foreign(batch_size=7), tmp_path).fingerprints == prints
        assert nets[0].rows == asked
        others = [ask(pool, other).fingerprints["val"] for other in (Foreign(seed=1), Foreign(first=1))]
        assert len({prints["val"], *others}) == 3

    @pytest.mark.parametrize("how", [{"drop_last": True}, {"shuffle": False, "sampler": SubsetRandomSampler(range(7))}])
    def test_a_loader_that_leaves_rows_out_is_rejected(self, tmp_path, how):
        with pytest.raises(InputError, match=r"the train loader gave \d+ of 24 rows; .*drop_last"):
            ask(tiny.pool(), Foreign(**how), tmp_path)
        assert not (tmp_path / "manifest.json").exists()

    def test_a_trainer_that_stops_early_is_rejected(self, tmp_path):
        with pytest.raises(InputError, match=r"the train loader gave 4 of 24 rows; .*limit_predict_batches"):
            ask(tiny.pool(), tiny.data(batch_size=4), tmp_path, trainer=tiny.trainer(limit_predict_batches=1))
        assert not (tmp_path / "manifest.json").exists()
        ask(tiny.pool(), tiny.data(), tmp_path)

    def test_a_loader_of_other_batches_is_rejected(self):
        class Data(Foreign):
            def train_dataloader(self):
                return DataLoader(TensorDataset(torch.zeros(4, 4)))

        with pytest.raises(InputError, match=r"the train loader yields a tuple of 1; expected .input, target"):
            ask(tiny.pool(), Data())

    def test_another_object_than_a_loader_is_rejected(self):
        class Data(Foreign):
            def val_dataloader(self):
                return [1, 2]

        with pytest.raises(InputError, match=r"Data.val_dataloader\(\) gives a list, not a DataLoader"):
            ask(tiny.pool(), Data())

    def test_its_own_transfer_hooks_are_called(self):
        class Data(Foreign):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                return [batch[0] * 0, *batch[1:]]

        pool = tiny.pool()
        answers = ask(pool, Data())["test"].probabilities["a"]
        np.testing.assert_allclose(answers, pool(torch.zeros(11, 4))["a"], rtol=1e-6)


class TestBadData:
    def test_doubled_indices(self, tmp_path):
        data = tiny.data()
        data.rows("val").index[3] = data.rows("val").index[0]
        with pytest.raises(InputError, match=r"val loader gave 9 rows with 8 indices; Batch.index must be unique"):
            ask(tiny.pool(), data, tmp_path)
        assert not (tmp_path / "manifest.json").exists()

    @pytest.mark.parametrize("label", [3, -1])
    def test_labels_out_of_range(self, tmp_path, label):
        data = tiny.data()
        data.rows("train").targets[5] = label
        with pytest.raises(InputError, match=rf"the train loader yields the target\(s\) {label}; .* of 3 classes"):
            ask(tiny.pool(), data, tmp_path)
        assert not (tmp_path / "manifest.json").exists()

    def test_labels_that_are_no_whole_numbers(self, tmp_path):
        with pytest.raises(
            InputError, match=r"split test: targets: found 0.7 in row.*; expected whole numbers, 0 to 2"
        ):
            ask(tiny.pool(), {"test": (tiny.tensors()["test"][0], torch.full((11,), 0.7))}, tmp_path)
        assert not (tmp_path / "manifest.json").exists()

    @pytest.mark.parametrize("arguments", [{"splits": []}, {"splits": ["tset"]}])
    def test_splits(self, arguments):
        with pytest.raises(InputError, match=r"splits.*choose from train, val, test"):
            ask(tiny.pool(), Foreign(), **arguments)

    def test_bad_answers_leave_no_store(self, tmp_path):
        pool = ExpertPool({"a": Expert(lambda x: x[:, :2] * float("nan"), classes=["cat", "dog"])}, tiny.CLASSES)
        with pytest.raises(InputError, match=r"expert a returned NaN.*; on_failure='skip' continues without it"):
            ask(pool, tiny.data(), tmp_path)
        assert not (tmp_path / "manifest.json").exists()
        assert not list(tmp_path.glob("data-*"))

    def test_other_files_in_the_folder(self, tmp_path):
        pool, nets = counting()
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match="contains other files"):
            ask(pool, tiny.data(), tmp_path)
        assert nets[0].rows == 0

    def test_several_processes_need_a_folder(self):
        with pytest.raises(InputError, match="output is not set; several processes need one folder"):
            ask(tiny.pool(), tiny.data(), trainer=tiny.trainer(devices=2, strategy="ddp"))

    def test_an_empty_split_is_named(self, tmp_path):
        empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
        with pytest.raises(InputError, match="the val loader gave no rows"):
            ask(tiny.pool(), {"train": tiny.tensors()["train"][:2], "val": empty}, tmp_path)


@pytest.mark.slow
def test_a_killed_run_and_a_living_one(tmp_path):
    store = tmp_path / "store"
    ask(tiny.pool(0), tiny.data(), store)
    (writer,) = start(tmp_path / "other", interrupted.stop_half_way, tmp_path / "store")
    try:
        wait_for(tmp_path / "other/half-way", writer)

        # while it lives, a second writer is refused and readers are not disturbed
        with pytest.raises(InputError, match=r"another process is writing .*; wait for it"):
            ask(tiny.pool(2), tiny.data(), store, overwrite=True)
        ask(tiny.pool(0), tiny.data(), store)
        assert writer.is_alive()
    finally:
        writer.kill()  # SIGKILL: nothing is tidied up
        writer.join(30)

    # the old store is whole; another run with overwrite continues the killed one
    assert sorted(path.name.partition("-")[0] for path in store.iterdir()) == [
        ".answers",
        ".lock",
        "data",
        "manifest.json",
    ]
    ask(tiny.pool(0), tiny.data(), store).check_pool(tiny.pool(0))
    ask(tiny.pool(1), tiny.data(), store, overwrite=True)
    fresh, found = ask(tiny.pool(1), tiny.data()), ExpertOutputs.open(store)
    assert all(np.array_equal(found.concatenated(split), fresh.concatenated(split)) for split in tiny.ROWS)
    assert sorted(path.name.partition("-")[0] for path in store.iterdir()) == [".lock", "data", "manifest.json"]


@pytest.mark.slow
def test_processes_that_a_launcher_outside_started_make_one_store(tmp_path):
    """Lightning starts no process then, as it does not for a single one."""
    together(tmp_path, training_script.store, tmp_path / "store")
    stored, one = ExpertOutputs.open(tmp_path / "store"), ask(tiny.pool(), tiny.data())
    assert all(np.array_equal(stored[split].index, one[split].index) for split in tiny.ROWS)
    assert all(np.allclose(stored.concatenated(split), one.concatenated(split), atol=1e-6) for split in tiny.ROWS)
