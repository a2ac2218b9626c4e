"""Readers beside writers see the old or the new content, whole."""

import threading

import pytest
import torch
from helpers import tiny

from lightning_fusion import ExpertOutputs
from lightning_fusion.errors import InputError
from lightning_fusion.files import write_text
from lightning_fusion.frugal.policy import FrugalFoE


def beside(write, read, writers: int = 4, readers: int = 8, rounds: int = 25) -> None:
    """Run writers and readers at the same time; a writer that meets another one tries again."""
    failures: list[BaseException] = []
    done = threading.Event()

    def writing(number: int) -> None:
        for round in range(rounds):
            try:
                write(number, round)
            except InputError as error:
                if "another process is writing" not in str(error):
                    failures.append(error)

    def reading() -> None:
        while not done.is_set():
            try:
                read()
            except BaseException as error:
                failures.append(error)
                return

    all_readers = [threading.Thread(target=reading) for _ in range(readers)]
    all_writers = [threading.Thread(target=writing, args=(number,)) for number in range(writers)]
    for thread in (*all_readers, *all_writers):
        thread.start()
    for thread in all_writers:
        thread.join()
    done.set()
    for thread in all_readers:
        thread.join()
    assert failures == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_policy_that_is_saved_while_it_is_read(tmp_path):
    policies = [FrugalFoE(neighbors=3).fit(tiny.outputs(seed)["train"]) for seed in (0, 1)]
    known = [policy.metadata()["digest"] for policy in policies]
    policies[0].save(tmp_path)

    def read() -> None:
        assert FrugalFoE.load(tmp_path).metadata()["digest"] in known

    beside(lambda number, round: policies[(number + round) % 2].save(tmp_path), read, rounds=8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_outputs_that_are_replaced_while_they_are_read(tmp_path):
    stores = [tiny.outputs(seed) for seed in (0, 1)]
    known = [torch.from_numpy(store["test"].scattered()) for store in stores]
    stores[0].save(tmp_path)

    def read() -> None:
        found = torch.from_numpy(ExpertOutputs.open(tmp_path)["test"].scattered())
        assert any(torch.equal(found, each) for each in known)

    beside(lambda number, round: stores[(number + round) % 2].save(tmp_path, overwrite=True), read, rounds=8)


@pytest.mark.slow
def test_two_writers_of_one_process_id_do_not_share_a_draft(tmp_path):
    """Containers on one volume have the process id 1 each."""
    texts = [f"{number}" * 5000 for number in range(4)]
    write_text(tmp_path / "a", texts[0])

    def read() -> None:
        assert (tmp_path / "a").read_text() in texts

    beside(lambda number, _: write_text(tmp_path / "a", texts[number]), read, rounds=8)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
