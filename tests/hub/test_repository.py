"""Models in repositories: what is saved answers as before, and nothing that others wrote is run."""

import json
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from helpers import tiny
from helpers.limited import largest_file
from huggingface_hub import hub_mixin

from lightning_fusion import (
    ACoRLModule,
    Expert,
    ExpertModule,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    HaTJointModule,
)
from lightning_fusion.errors import InputError
from lightning_fusion.hub.content import content_digest

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
NET = {"class_path": f"{tiny.Net.__module__}.Net", "init_args": {"norm": True}}


@pytest.fixture
def pool() -> ExpertPool:
    made = tiny.pool()
    for expert in made.members.values():
        expert.spec = NET
    return made


@pytest.fixture
def policy() -> FrugalFoE:
    return FrugalFoE().fit(tiny.outputs(rows={"train": 60})["train"])


@pytest.fixture
def saved(pool, tmp_path) -> Path:
    """The repository of an expert."""
    pool.members["a"].save_pretrained(tmp_path / "expert")
    return tmp_path / "expert"


class TestEveryKind:
    def test_an_expert(self, pool, saved):
        expert = pool.members["a"]
        again = Expert.from_pretrained(saved)
        assert torch.equal(again(ROWS), expert(ROWS)) and again.fingerprint == expert.fingerprint
        assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        assert again.checkpoint is None and not again.network.training

    def test_an_expert_with_other_names_and_another_order(self, tmp_path):
        torch.manual_seed(0)
        expert = Expert(tiny.Net(2), classes=["cat", "dog"], cost=3.0)
        expert.classes, expert._columns, expert.preprocessing = ["dog", "feline"], [1, 0], {"mean": [0.0], "std": [1.0]}
        expert.save_pretrained(tmp_path / "e")
        again = Expert.from_pretrained(tmp_path / "e", network=tiny.Net)
        assert torch.equal(again(ROWS), expert(ROWS))
        assert (again.classes, again.cost) == (["dog", "feline"], 3.0)
        assert again.preprocessing == {"mean": [0.0], "std": [1.0]}

    @pytest.mark.parametrize("method", ["plain", "complementary", "student"])
    def test_members_and_students_are_experts(self, method, tmp_path):
        frozen = {"experts": tiny.pool(features="body"), "features": "body"}
        kind, more = {
            "plain": (ExpertModule, {}),
            "complementary": (ACoRLModule, frozen),
            "student": (HaTJointModule, frozen),
        }[method]
        module = kind(network=partial(tiny.Net, hidden=3), classes=tiny.CLASSES, **more).eval()
        module.save_pretrained(tmp_path / "m")
        again = Expert.from_pretrained(tmp_path / "m")
        assert torch.allclose(again(ROWS), module(ROWS).softmax(1)) and again.features == module.features
        with pytest.raises(InputError, match=r"the kind 'expert'; load it with Expert\.from_pretrained, not"):
            kind.from_pretrained(tmp_path / "m")

    def test_a_fuser_with_its_experts_or_without(self, pool, tmp_path):
        fuser = FoEFuserModule(pool, network=partial(tiny.LinearFuser, scale=2.0), mean_weight=0.2).eval()
        fuser.save_pretrained(tmp_path / "whole")
        assert torch.equal(FoEFuserModule.from_pretrained(tmp_path / "whole")(ROWS), fuser(ROWS))
        fuser.save_pretrained(tmp_path / "alone", with_experts=False)
        again = FoEFuserModule.from_pretrained(tmp_path / "alone", experts=pool)
        assert torch.equal(again(ROWS), fuser(ROWS))
        with pytest.raises(InputError, match="fingerprint"):
            FoEFuserModule.from_pretrained(tmp_path / "alone", experts=tiny.pool(seed=1))

    def test_a_policy_and_its_module(self, pool, policy, tmp_path):
        policy.experts = {name: entry | {"checkpoint": "/home/me/a.ckpt"} for name, entry in pool.metadata().items()}
        policy.save_pretrained(tmp_path / "policy")
        again = FrugalFoE.from_pretrained(tmp_path / "policy")
        assert torch.equal(again.outputs, policy.outputs) and again.costs_ == policy.costs_
        module = FrugalFoEModule(policy, pool)
        module.save_pretrained(tmp_path / "module")
        found, wanted = FrugalFoEModule.from_pretrained(tmp_path / "module")(ROWS), module(ROWS)
        assert torch.equal(found.probabilities, wanted.probabilities) and torch.equal(found.queried, wanted.queried)
        for name in ("policy", "module"):
            assert "/home/me" not in (tmp_path / name / "config.json").read_text()
            card = (tmp_path / name / "README.md").read_text()
            assert "the outputs of the experts on the calibration samples, and their labels" in card


class TestWhatCannotBeShared:
    def test_parts_that_cannot_be_described(self, pool, tmp_path):
        called = Expert(tiny.Net(2).forward, classes=["cat", "dog"])
        moved = Expert(tiny.Net(2), classes=["cat", "dog"], preprocess=torch.nn.Identity())
        for expert, said in ((called, "is a plain callable"), (moved, "preprocess of expert is no plain data")):
            with pytest.raises(InputError, match=said):
                expert.save_pretrained(tmp_path / "x")
        with pytest.raises(InputError, match=r"network of a is not recorded .*with_experts=False"):
            FoEFuserModule(tiny.pool()).save_pretrained(tmp_path / "x")
        with pytest.raises(InputError, match="policy: it is not fitted"):
            FrugalFoEModule(FrugalFoE(), pool).save_pretrained(tmp_path / "x")
        assert not (tmp_path / "x").exists()

    def test_arguments_and_folders(self, pool, saved):
        expert = pool.members["a"]
        with pytest.raises(InputError, match="is not empty; name a new folder"):
            expert.save_pretrained(saved)
        with pytest.raises(InputError, match="found the arguments licence; expected run, method, license"):
            expert.save_pretrained(saved / "more", licence="mit")
        with pytest.raises(InputError, match=r"folder: .*config.json/x cannot be written \(File exists\)"):
            expert.save_pretrained(saved / "config.json/x")
        with pytest.raises(InputError, match=r"revision: found 'main', and .* is a folder"):
            Expert.from_pretrained(saved, revision="main")

    def test_a_repository_is_written_whole_or_not_at_all(self, pool, tmp_path):
        with largest_file(300), pytest.raises(InputError, match="a file has reached the largest size"):
            pool.members["a"].save_pretrained(tmp_path / "full")
        assert not list(tmp_path.iterdir())


def changed(folder: Path, **entries) -> None:
    """Change entries of a repository, as who writes one may do: with the digest of the new content."""
    config = json.loads((folder / "config.json").read_text()) | entries
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"digest": content_digest(config, tensors)}))


class TestForeignContent:
    def test_code_is_refused(self, saved):
        (saved / "modeling.py").write_text("raise SystemExit('it ran')")
        with pytest.raises(InputError, match=r"contains code \(modeling\.py\); .*nothing in a repository is run"):
            Expert.from_pretrained(saved)
        (saved / "modeling.py").unlink()
        changed(saved, auto_map={"AutoModel": "modeling.Net"})
        with pytest.raises(InputError, match="has an auto_map, which names code"):
            Expert.from_pretrained(saved)

    def test_a_class_that_is_not_imported_is_passed(self, saved, pool):
        card = json.loads((saved / "config.json").read_text())["card"]
        for path in ("os.system", "subprocess.Popen", "nowhere.Net"):
            changed(saved, card=card | {"network": {"class_path": path, "init_args": {}}})
            with pytest.raises(InputError, match=f"names {path}, which is not an imported module"):
                Expert.from_pretrained(saved)
        again = Expert.from_pretrained(saved, network=tiny.Net(2, norm=True))
        assert torch.equal(again(ROWS), pool.members["a"](ROWS))

    def test_a_fuser_of_a_class_that_is_not_imported(self, pool, tmp_path):
        FoEFuserModule(pool).save_pretrained(tmp_path / "f")
        arguments = json.loads((tmp_path / "f/config.json").read_text())["arguments"]
        changed(tmp_path / "f", arguments=arguments | {"_class_path": "evil.Fuser"})
        with pytest.raises(InputError, match=r"contains evil\.Fuser, which is no imported FoEFuserModule"):
            FoEFuserModule.from_pretrained(tmp_path / "f")

    def test_pickles_and_missing_files(self, saved):
        (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
        with pytest.raises(InputError, match=r"no model\.safetensors; found pickled weights \(pytorch_model\.bin\)"):
            Expert.from_pretrained(saved)
        (saved / "config.json").unlink()
        with pytest.raises(InputError, match=r"has no readable config\.json \(FileNotFoundError\)"):
            Expert.from_pretrained(saved)

    def test_truncated_or_other_weights(self, saved):
        weights = saved / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-9])
        with pytest.raises(InputError, match=r"model\.safetensors of .* cannot be read"):
            Expert.from_pretrained(saved)
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match="are not those that were saved together"):
            Expert.from_pretrained(saved)

    @pytest.mark.parametrize(
        "text, said",
        [
            ("{", "no readable config"),
            ("[]", "is a list; expected a mapping"),
            ('{"architectures": ["BertModel"]}', r"none of a model of lightning_fusion .*BertModel"),
            ('{"library": "lightning_fusion", "format": 1, "kind": "spell"}', "found spell"),
            ('{"library": "lightning_fusion", "format": 1, "kind": ["spell"]}', "found"),
        ],
    )
    def test_configurations_of_others(self, saved, text, said):
        (saved / "config.json").write_text(text)
        with pytest.raises(InputError, match=said):
            Expert.from_pretrained(saved)

    def test_damaged_entries(self, saved):
        for entries in ({"card": {"classes": 3}}, {"card": None, "arguments": None}, {"arguments": {"speed": 1}}):
            changed(saved, **entries)
            with pytest.raises(InputError, match="is damaged"):
                Expert.from_pretrained(saved)


class TestHub:
    def test_what_is_uploaded(self, pool, monkeypatch):
        """Up to the requests: the hub does not answer here."""
        asked = {}

        class Recorder:
            def __init__(self, token=None):
                asked["token"] = token

            def create_repo(self, repo_id, **how):
                asked["created"] = repo_id, how["private"]
                return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

            def upload_folder(self, *, folder_path, **how):
                asked["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
                return f"https://huggingface.co/{how['repo_id']}/commit/1"

        monkeypatch.setattr(hub_mixin, "HfApi", Recorder)
        url = pool.members["a"].push_to_hub("me/cats", private=True, license="mit", token="t")
        assert url == "https://huggingface.co/me/cats/commit/1"
        assert (asked["created"], asked["token"]) == (("me/cats", True), "t")
        assert set(asked["files"]) == {"README.md", "config.json", "model.safetensors"}
        assert b'Expert.from_pretrained("me/cats")' in asked["files"]["README.md"]

    def test_a_hub_that_does_not_answer_is_one_line(self, pool, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        for ask in (
            lambda: pool.members["a"].push_to_hub("me/cats"),
            lambda: Expert.from_pretrained("me/cats"),
        ):
            with pytest.raises(InputError, match=r"the hub does not give me/cats \(\w+: ") as caught:
                ask()
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=r"found no folder \./cats; give a folder, or owner/name"):
            Expert.from_pretrained("./cats")
        with pytest.raises(InputError, match="push_to_hub: found the arguments branches"):
            pool.members["a"].push_to_hub("me/cats", branches="x")
