import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_fusion import Expert
from lightning_fusion.described import build_described
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.programs import ProgramExpert

CLASSES = ["cat", "dog"]


class Spread(nn.Module):
    """Has a batch norm, so that its mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(rows))


def save(path: Path, kind: str) -> str:
    torch.manual_seed(0)
    network = Spread().eval()
    if kind == "script":
        torch.jit.script(network).save(path)
        return str(path)
    shapes = None if kind == "fixed" else ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 4),), dynamic_shapes=shapes), path)
    return str(path)


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("any", "a.pt2"), ("fixed", "a.pt2"), ("script", "a.pt")])
def test_the_answers_are_those_of_the_network(tmp_path, kind, name):
    path, rows = save(tmp_path / name, kind), torch.randn(5, 4)
    torch.manual_seed(0)
    expected = Expert(Spread(), classes=CLASSES)(rows)
    expert = ProgramExpert(path, CLASSES, sha256(path))
    expert.train()
    torch.testing.assert_close(expert(rows), expected, atol=1e-6, rtol=0)
    assert expert.unknown_state() is None
    assert expert.fingerprint == ProgramExpert(path, CLASSES, sha256(path).upper()).fingerprint


@pytest.mark.parametrize("name", ["a.pt2", "a.pt"])
def test_nothing_is_loaded_without_the_digest_of_the_very_file(tmp_path, monkeypatch, name):
    path = save(tmp_path / name, "script" if name == "a.pt" else "any")
    for loader in (torch.jit, torch.export):
        monkeypatch.setattr(loader, "load", lambda *_, **__: pytest.fail("the file was loaded"))
    with pytest.raises(InputError, match=rf"sha256 is not set, .* is a program, .* set sha256: {sha256(path)}"):
        ProgramExpert(path, CLASSES)
    with pytest.raises(InputError, match="found 00: it is not the file that you trust"):
        ProgramExpert(path, CLASSES, "00")


def test_a_checkpoint_cannot_trust_a_program_for_its_user(tmp_path):
    path = save(tmp_path / "a.pt2", "any")
    spec = {
        "class_path": "lightning_fusion.experts.adapters.programs.ProgramExpert",
        "init_args": {"path": path, "classes": CLASSES, "sha256": sha256(path)},
    }
    with pytest.raises(InputError, match="describes expert with sha256, by which code in another file would run"):
        build_described(spec, Expert, "a.ckpt", "expert")


def test_other_files_are_named(tmp_path):
    torch.save(Spread().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="is a checkpoint; give it to Expert"):
        ProgramExpert(str(tmp_path / "weights.pt"), CLASSES)
    path = Path(save(tmp_path / "a.pt2", "any"))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="torch cannot load"):
        ProgramExpert(str(path), CLASSES, sha256(str(path)))
    with pytest.raises(InputError, match="is a TorchScript program; give it to ProgramExpert, as path"):
        Expert(Spread(), save(tmp_path / "b.pt", "script"), CLASSES)
