import numpy as np
import pytest
from jsonargparse import ArgumentParser

from lightning_fusion import ImageDataModule, SensorDataModule, SpeakerDataModule, TextDataModule
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.audio.synthetic import SyntheticSpeakerDataModule
from lightning_fusion.data.domains import MessageLog, chosen_domains, domain_matrix, local_classes
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.errors import InputError


@pytest.mark.parametrize("domain, wanted", [(None, [0, 1, 2]), ("33", [1]), (33, [1]), (["b", "a", "b"], [0, 2])])
def test_domains_are_chosen_by_name(domain, wanted):
    assert chosen_domains(domain, ["a", "33", "b"]) == wanted


@pytest.mark.parametrize("domain", [[], "c", ["a", "c"], 1])
def test_an_unknown_domain_lists_the_known_ones(domain):
    with pytest.raises(InputError, match="expected one or several of the 2 domains a, b"):
        chosen_domains(domain, ["a", "b"])


def test_local_classes_leave_labels_of_no_class_alone():
    assert local_classes([2, 0], 3)[np.array([0, 1, 2, -1])].tolist() == [1, -1, 0, -1]
    assert domain_matrix(np.array([1, -1, 0]), 2).tolist() == [[False, True], [False, False], [True, False]]


def test_a_warning_is_given_once():
    messages = MessageLog()
    with pytest.warns(UserWarning, match="3 texts") as found:
        messages.warn("3 texts are cut")
        messages.warn("3 texts are cut")
    assert len(found) == 1


@pytest.mark.parametrize(
    "kind",
    [
        DigitsDataModule,
        DomainImageDataModule,
        ImageDataModule,
        LabeledAudioDataModule,
        SensorDataModule,
        SpeakerDataModule,
        SyntheticSpeakerDataModule,
        TextDataModule,
    ],
)
def test_the_command_line_describes_the_arguments_of_all_bases(kind):
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "data")
    found = {action.dest: action.help for action in parser._actions if action.dest.startswith("data.")}
    assert {"data.batch_size", "data.num_workers", "data.seed"} <= set(found)
    assert not [name for name, text in found.items() if not (text or "").strip()]
