import pytest
import torch

from lightning_fusion.errors import InputError
from lightning_fusion.experts.formats import check_format, model_format
from lightning_fusion.experts.weights import read_weights


def test_models_that_need_a_step_of_the_user(tmp_path):
    (tmp_path / "cat.bin").write_bytes(b"CBM1....")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft/adapter_config.json").write_text("{}")
    for name, what in (
        ("cat.bin", r"is a model of CatBoost; save it by .*'onnx'"),
        ("peft", "an adapter of peft; merge"),
    ):
        with pytest.raises(InputError, match=what):
            check_format(str(tmp_path / name), ())


@pytest.mark.slow
def test_every_flipped_bit_of_the_directory_of_an_archive_is_named(tmp_path):
    """Names that are no UTF-8, methods that do not exist, offsets that lead nowhere: each has its own exception."""
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.ones(2)}, path)
    whole = path.read_bytes()
    assert model_format(path) == ("a checkpoint", "give it to Expert, TorchvisionExpert or TimmExpert, as checkpoint")
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        model_format(path)
        try:
            state, _ = read_weights(str(path))
        except InputError:
            continue
        assert state["w"].tolist() == [1, 1]
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(str(path))
