import copy
import json
import multiprocessing
import os
import pickle
import socket
import sys
import uuid
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import registry_sources, sealed, tiny
from helpers.registry_sources import CLASSES
from torch import nn

from lightning_fusion import Expert, ExpertModule, ExpertRegistry
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.files import digest
from lightning_fusion.files import sealed as sealed_entries
from lightning_fusion.registry.card import Card
from lightning_fusion.registry.summaries import labeled_batches, statistics_of
from lightning_fusion.registry.transport import UnreachableError


@pytest.fixture(params=["folder", "memory"])
def registry(request, tmp_path) -> ExpertRegistry:
    return ExpertRegistry(str(tmp_path / "shared") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def folder(tmp_path) -> ExpertRegistry:
    return ExpertRegistry(str(tmp_path / "shared"))


def path_of(registry: ExpertRegistry, card: Card, file: str) -> Path:
    return Path(registry.address) / card.name / card.version / file


def edit(registry: ExpertRegistry, source: str, **changes) -> None:
    """Change entries of a card on disk; 'removed' removes one."""
    sealed.edit(
        Path(registry.address) / source / "card.json",
        lambda card: {key: value for key, value in (card | changes).items() if value != "removed"},
    )


class TestPublished:
    def test_a_source_is_the_expert_that_was_published(self, registry):
        given = registry_sources.publish(registry, "site_a", hidden=7)
        found, x = registry.load("site_a"), torch.randn(5, 4)
        assert registry.names == ["site_a"]
        assert found.fingerprint == given.fingerprint
        assert torch.equal(found(x), given(x))
        assert torch.equal(found.forward_with_representations(x)[1], given.network.body(x))
        assert found.checkpoint == f"{registry.address}/site_a"

    def test_its_card_says_what_it_is(self, registry):
        given = registry_sources.expert(hidden=7, domains=["here"], cost=3.0)
        network, known = partial(tiny.Net, hidden=7), registry_sources.data()
        known.preprocessing = {"mean": (0.5, 1.0)}
        said = registry.publish(given, known, "site_a", statistics=np.array([0.1, 2.0]), network=network)
        card = registry.card("site_a")
        assert card == said == registry.cards()["site_a"]
        assert (card.name, card.classes, card.counts) == ("site_a", CLASSES, [6, 5, 5, 5])
        assert (card.domains, card.cost, card.features, card.width) == (["here"], 3.0, "body", 7)
        assert np.array_equal(np.float32(card.statistics), np.float32([0.1, 2.0]))
        assert card.statistics[0] == 0.1  # not 0.10000000149011612
        assert card.fingerprint == given.fingerprint
        assert card.network == {"class_path": "helpers.tiny.Net", "init_args": {"hidden": 7}}
        assert card.preprocessing == registry.load("site_a").preprocessing == {"mean": [0.5, 1.0]}

    @pytest.mark.parametrize(("trained", "count"), [("there", 1), ("here", 0)])
    def test_data_of_another_domain_than_the_training_are_reported(self, trained, count, registry):
        given, known = registry_sources.expert(domains=[trained]), registry_sources.data()
        known.own_domains = ["here"]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            registry.publish(given, known, "a", statistics=[1.0], network=partial(tiny.Net, hidden=5))
        found = [str(one.message) for one in said]
        assert [text.startswith("a was trained on there, and its statistics") for text in found] == [True] * count

    def test_centroids_are_means_of_the_representation_by_class(self, registry):
        given = registry_sources.publish(registry, "site_a")
        known = registry_sources.data()
        inputs, targets = known.rows("train").inputs, known.rows("train").targets.numpy()
        features = given.network.body(inputs).detach().numpy().astype(np.float64)
        classes, means = registry.centroids(registry.card("site_a"))
        assert classes == CLASSES
        assert means.dtype == torch.float32
        expected = np.stack([features[targets == number].mean(0) for number in range(4)])
        np.testing.assert_allclose(means.numpy(), expected, rtol=1e-6)

    def test_only_labeled_samples_of_its_own_classes_count(self, registry):
        """The data names classes in another order, one that the expert does not know, and one without a sample."""
        inputs, names = torch.randn(7, 4), ["owl", "fox", "cat", "dog"]
        targets = torch.tensor([0, 2, -100, 1, 2, 1, 0])
        known = TensorDataModule({"train": (inputs, targets)}, names, batch_size=2)
        given = registry_sources.expert(["cat", "dog", "owl"])
        card = registry.publish(given, known, "a", statistics=[1.0], network=tiny.Net)
        classes, means = registry.centroids(registry.card("a"))
        assert (card.counts, classes) == ([2, 0, 2], ["cat", "owl"])
        features = given.network.body(inputs)
        expected = torch.stack([features[[1, 4]].mean(0), features[[0, 6]].mean(0)])
        torch.testing.assert_close(means, expected)

    def test_files_are_weights_and_sizes_are_true(self, folder):
        given = registry_sources.publish(folder, "site_a")
        card = folder.card("site_a")
        state = {}
        for part in ("encoder", "head"):
            state |= safetensors.torch.load_file(path_of(folder, card, f"{part}.safetensors"))
        assert {key: value.tolist() for key, value in state.items()} == {
            key: value.tolist() for key, value in given.network.state_dict().items()
        }
        assert {part: file["bytes"] for part, file in card.files.items()} == {
            part: path_of(folder, card, f"{part}.safetensors").stat().st_size for part in card.files
        }
        assert card.num_bytes == sum(path.stat().st_size for path in path_of(folder, card, ".").iterdir())

    def test_a_trained_checkpoint_needs_no_description_and_can_be_passed_on(self, registry, tmp_path):
        module = ExpertModule(partial(tiny.Net, hidden=6, norm=True), classes=tiny.CLASSES, features="body")
        trainer = tiny.trainer()
        trainer.fit(module, datamodule=tiny.data())
        trainer.save_checkpoint(tmp_path / "expert.ckpt")
        given = Expert(checkpoint=str(tmp_path / "expert.ckpt"))
        registry.publish(given, tiny.data(), "first", statistics=[1.0])
        assert registry.card("first").domains == tiny.DOMAINS
        registry.publish(registry.load("first"), tiny.data(), "second", statistics=[1.0])
        assert registry.load("second").fingerprint == given.fingerprint

    @pytest.mark.slow
    def test_names_are_free_text(self, folder):
        names = ["../up", "CON", "a\nb", "org/model-v1.0", "東京 %2F"]
        for name in names:
            registry_sources.publish(folder, name)
        with registry_sources.served(Path(folder.address)) as (address, _):
            for registry in (folder, ExpertRegistry(address)):
                assert registry.names == sorted(names)
                assert [registry.load(name).fingerprint for name in names] == [folder.load(names[0]).fingerprint] * 5
        assert not (Path(folder.address).parent / "up").exists()

    @pytest.mark.slow
    def test_a_compiled_network_is_published_as_it_was(self, registry):
        given = registry_sources.expert()
        compiled = Expert(torch.compile(given.network, backend="eager"), classes=CLASSES, features="body")
        card = registry.publish(compiled, registry_sources.data(), "a", statistics=[1.0], network=tiny.Net)
        assert card.fingerprint == given.fingerprint == registry.load("a").fingerprint

    def test_statistics_may_be_a_function_or_the_data_modules_own(self, registry):
        known = registry_sources.data()
        card = registry.publish(
            registry_sources.expert(),
            known,
            "a",
            statistics=lambda data: data.rows("train").inputs.mean(0),
            network=tiny.Net,
        )
        assert card.statistics == pytest.approx(known.rows("train").inputs.mean(0).tolist())
        known.statistics = lambda: torch.tensor([4.0, 5.0])
        assert registry.publish(registry_sources.expert(), known, "b", network=tiny.Net).statistics == [4.0, 5.0]

    def test_odd_names(self, registry):
        for name in ("a b", "100%25", "häuser#?&", "[x]*", "index"):
            registry_sources.publish(registry, name)
        assert registry.names == sorted(["a b", "100%25", "häuser#?&", "[x]*", "index"])
        assert registry.load("[x]*").fingerprint == registry_sources.expert().fingerprint

    def test_nothing_is_augmented(self, registry):
        class Noisy(TensorDataModule):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                return batch if self.trainer is None else batch._replace(input=batch.input + 100)

        plain = registry_sources.data()
        rows = plain.rows("train")
        noisy = Noisy({"train": (rows.inputs, rows.targets)}, CLASSES)
        noisy.trainer = SimpleNamespace(training=True)
        registry.publish(registry_sources.expert(), noisy, "a", statistics=[1.0], network=tiny.Net)
        assert noisy.trainer is not None
        registry_sources.publish(registry, "b")
        torch.testing.assert_close(registry.centroids(registry.card("a"))[1], registry.centroids(registry.card("b"))[1])

    def test_inputs_by_name(self, registry):
        known = registry_sources.data()
        rows = known.rows("train")

        class AsDict:
            def __getitem__(self, index):
                return {"x": rows.inputs[index]}

        other = copy.copy(known)
        targets = torch.where(torch.arange(len(rows)) % 2 == 0, rows.targets, -100)
        other._rows = {"train": copy.copy(rows)}
        other._rows["train"].inputs, other._rows["train"].targets = AsDict(), targets
        batches = list(labeled_batches(other))  # every other row is unlabeled
        assert torch.equal(torch.cat([batch.input["x"] for batch in batches]), rows.inputs[::2])
        given = Expert(registry_sources.Named(4), classes=CLASSES, features="net.body")
        card = registry.publish(given, other, "a", statistics=[1.0], network=registry_sources.Named)
        assert set(card.files) == {"centroids", "encoder", "head"}

    def test_loading_moves_no_random_number(self, registry):
        registry_sources.publish(registry, "a")
        state = torch.get_rng_state()
        registry.load("a")
        assert torch.equal(torch.get_rng_state(), state)


class TestSplit:
    """Encoder and head are files of their own where the network splits by its features layer."""

    def keys(self, registry, given, network) -> tuple[set[str], set[str]]:
        card = registry.publish(given, registry_sources.data(given.classes), "a", statistics=[1.0], network=network)
        head = set(registry.weights(card, "head")) if card.splits else set()
        assert registry.load("a").fingerprint == given.fingerprint
        return set(registry.weights(card, "encoder")), head

    def test_what_only_works_on_the_representation_is_the_head(self, registry):
        given = Expert(registry_sources.Wide(4), classes=CLASSES, features="body")
        encoder, head = self.keys(registry, given, registry_sources.Wide)
        assert encoder == {"shift", "body.weight", "body.bias"}
        assert head == {key for key in given.network.state_dict() if key.startswith("head.")}
        card, x = registry.card("a"), torch.randn(3, 4)
        partly = registry.build(card, registry.weights(card, "encoder"), whole=False)
        assert torch.equal(partly.forward_with_representations(x)[1], given.forward_with_representations(x)[1])
        with pytest.raises(InputError, match=r"the weights differ: missing head\.1\.bias"):
            registry.build(card, registry.weights(card, "encoder"))

    def test_the_head_may_be_several_modules(self, registry):
        given = Expert(registry_sources.Deep(4), classes=CLASSES, features="z")
        encoder, head = self.keys(registry, given, registry_sources.Deep)
        assert (encoder, len(head)) == ({"a.weight", "a.bias"}, 6)

    @pytest.mark.parametrize(
        ("network", "classes", "features"),
        [
            (registry_sources.Reused, CLASSES[:3], "body"),
            (registry_sources.Tied, CLASSES[:3], "pad"),
            (registry_sources.Wide, CLASSES, "head"),
            (partial(tiny.Net, hidden=4), CLASSES, "head"),
        ],
        ids=["reused", "tied", "last_of_three", "last"],
    )
    def test_else_all_weights_are_the_encoder(self, registry, network, classes, features):
        given = Expert(network(len(classes)), classes=classes, features=features)
        encoder, head = self.keys(registry, given, network)
        assert (encoder, head) == (set(given.network.state_dict()), set())


class TestLedger:
    def test_every_byte_that_was_read_or_written_is_there(self, folder):
        folder.stage = "publishing"
        registry_sources.publish(folder, "a")
        card = folder.card("a")
        sizes = {file: path_of(folder, card, f"{file}.safetensors").stat().st_size for file in card.files}
        size = (Path(folder.address) / "a" / "card.json").stat().st_size
        index = (Path(folder.address) / "index.json").stat().st_size
        up = [(one.file, one.num_bytes) for one in folder.ledger if one.direction == "up"]
        written = [(f"{file}.safetensors", size) for file, size in sizes.items()]
        packed = next(Path(folder.address, "cards").iterdir())
        last = [(f"cards/{packed.name}", packed.stat().st_size), ("index.json", index)]
        assert up == [*written, ("card.json", size), *last]
        assert {one.stage for one in folder.ledger} == {"publishing"}
        reader = folder.reader()
        reader.stage = "reading"
        reader.load("a")
        assert [tuple(one) for one in reader.ledger] == [
            ("reading", "down", "a", "card.json", size),
            ("reading", "down", "a", "encoder.safetensors", sizes["encoder"]),
            ("reading", "down", "a", "head.safetensors", sizes["head"]),
        ]
        assert {one.stage for one in folder.ledger} == {"publishing"}

    def test_excluded_cards_are_not_read(self, registry):
        for name in "abc":
            registry_sources.publish(registry, name)
        reader = registry.reader()
        assert list(reader.cards(exclude=["b"])) == ["a", "c"]
        assert [one.source for one in reader.ledger] == ["a", "c"]
        with pytest.raises(InputError, match=r"exclude: .* has no source bb; it has a, b, c"):
            registry.cards(exclude=["bb"])


class TestNothingIsHalfWritten:
    def test_a_taken_name_is_rejected_before_any_work(self, registry):
        given = registry_sources.publish(registry, "a")
        with pytest.raises(InputError, match=r"has a source 'a' already; rename it, or set overwrite"):
            registry_sources.publish(registry, "a", data=None)
        assert registry.load("a").fingerprint == given.fingerprint

    def test_a_name_that_is_taken_meanwhile_is_rejected_too(self, registry):
        """The other one is whole before this one's card is written."""
        first: list[Expert] = []

        def publish_first(data):
            first.append(registry_sources.publish(registry, "a", seed=1))
            return [1.0]

        with pytest.raises(InputError, match="has a source 'a' already"):
            registry_sources.publish(registry, "a", statistics=publish_first)
        assert registry.load("a").fingerprint == first[0].fingerprint
        versions = [
            path for path in registry.files.fs.ls(f"{registry.files.root}/a", detail=False) if "json" not in path
        ]
        assert len(versions) == 1

    def test_without_links_a_name_is_claimed_all_the_same(self, folder, monkeypatch):
        def refuse(*_):
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", refuse)
        self.test_a_name_that_is_taken_meanwhile_is_rejected_too(folder)

    def test_overwriting_replaces_all_files(self, registry):
        registry_sources.publish(registry, "b")
        registry_sources.publish(registry, "a")
        old = registry.card("a")
        given = registry_sources.publish(registry, "a", seed=3, overwrite=True)
        assert registry.names == ["a", "b"]
        assert registry.load("a").fingerprint == given.fingerprint != old.fingerprint
        with pytest.raises(InputError, match=r"encoder\.safetensors does not exist; it was republished"):
            registry.weights(old, "encoder")
        assert len(registry.files.fs.find(f"{registry.files.root}/a")) == 4

    @pytest.mark.parametrize("fails_at", range(1, 5))
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_killed_publish_is_invisible(self, folder, monkeypatch, fails_at, overwrite):
        """Encoder, head, centroids or card are cut short in the middle, and nobody cleans up."""
        given = registry_sources.publish(folder, "a") if overwrite else None
        root = Path(folder.address)
        before = {path: path.read_bytes() for path in root.rglob("*.*")}
        writes = []

        def killed(path, content, write):
            writes.append(path)
            if len(writes) == fails_at:
                write(path, content[: len(content) // 2])
                raise KeyboardInterrupt
            return write(path, content)

        whole, plain = folder.files.fs.pipe_file, Path.write_bytes
        with monkeypatch.context() as patch:
            patch.setattr(folder.files.fs, "pipe_file", lambda path, content: killed(path, content, whole))
            patch.setattr(Path, "write_bytes", lambda path, content: killed(path, content, plain))
            patch.setattr(Path, "unlink", lambda path, missing_ok: None)
            with pytest.raises(KeyboardInterrupt):
                registry_sources.publish(folder, "a", seed=2, overwrite=overwrite)
        assert len(writes) == fails_at
        assert {path: path.read_bytes() for path in before} == before
        again = ExpertRegistry(folder.address)
        assert again.names == (["a"] if overwrite else [])
        if given is not None:
            assert again.load("a").fingerprint == given.fingerprint
        new = registry_sources.publish(again, "a", seed=2, overwrite=overwrite)
        assert again.load("a").fingerprint == new.fingerprint
        assert json.loads((root / "index.json").read_text())["sources"] == ["a"]

    def test_a_card_that_is_not_whole_is_no_source(self, folder):
        for name in "ab":
            registry_sources.publish(folder, name)
        path = Path(folder.address) / "a" / "card.json"
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.warns(UserWarning, match=r"left out 1 source\(s\): .*card\.json is no complete card"):
            assert folder.names == ["b"]
        with pytest.raises(InputError, match=r"card\.json is no complete card .*; publish a again, with overwrite"):
            folder.load("a")
        registry_sources.publish(folder, "a", overwrite=True)
        assert folder.names == ["a", "b"]

    def test_the_index_names_what_another_process_published_meanwhile(self, registry):
        """The other one is done after this one has listed the sources, and before it writes the index."""
        other, plain, done = ExpertRegistry(registry.address), registry.files.write, []

        def put(path, content, exclusive=False):
            if path.endswith("index.json") and not done:
                done.append(registry_sources.publish(other, "b"))
            plain(path, content, exclusive)

        registry.files.write = put
        registry_sources.publish(registry, "a")
        assert len(done) == 1
        assert json.loads(registry.files.fs.cat_file(f"{registry.files.root}/index.json"))["sources"] == ["a", "b"]

    @pytest.mark.slow
    def test_two_processes_publish_at_once(self, tmp_path):
        context = multiprocessing.get_context("fork")  # they need not import everything again
        address, together = str(tmp_path / "shared"), context.Barrier(2)

        def work(me: int) -> None:
            together.wait()
            for number in range(15):
                registry_sources.publish(ExpertRegistry(address), f"{number}_of_{me}", seed=me)

        started = [context.Process(target=work, args=(me,)) for me in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join(timeout=60)
        assert [process.exitcode for process in started] == [0, 0]
        wanted = sorted(f"{number}_of_{me}" for number in range(15) for me in range(2))
        assert ExpertRegistry(str(tmp_path / "shared")).names == wanted
        assert json.loads((tmp_path / "shared" / "index.json").read_text())["sources"] == wanted
        with registry_sources.served(tmp_path / "shared") as (url, asked):
            assert ExpertRegistry(url).cards() == ExpertRegistry(address).cards()
            assert not any(path.endswith("card.json") for path in asked)  # all of them are packed


class TestDistrust:
    """What a registry holds is not believed."""

    def test_weights_of_another_source(self, folder):
        for seed, name in enumerate("ab"):
            registry_sources.publish(folder, name, seed=seed)
        a, b = (folder.card(name) for name in "ab")
        path_of(folder, a, "encoder.safetensors").write_bytes(path_of(folder, b, "encoder.safetensors").read_bytes())
        prints = a.files["encoder"]["fingerprint"], b.files["encoder"]["fingerprint"]
        with pytest.raises(InputError, match=rf"source a: .*of fingerprint {prints[0]}; .* has {prints[1]}"):
            folder.load("a")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"classes": CLASSES[::-1]},
                r"names an expert of fingerprint \w{32}, its files give \w{32}",
            ),
            ({"output": "probabilities"}, "its files give"),
            ({"fingerprint": "0" * 32}, "its card names an expert of fingerprint 0{32}, its files give"),
            ({"features": "neck"}, "has no layer 'neck'"),
            ({"network": {"class_path": "os.system"}}, "names os.system, which is not an imported module"),
            (
                {"network": {"class_path": "antigravity.Net"}},
                "antigravity.Net, which is not an imported module",
            ),
            ({"network": {"class_path": "helpers.tiny.Net", "init_args": {"hidden": 9}}}, "the weights do not match"),
            (
                {"network": {"class_path": "helpers.tiny.Net", "init_args": {"depth": 9}}},
                "helpers.tiny.Net, which does not accept these arguments",
            ),
            (
                {"network": {"class_path": "helpers.tiny.Net", "init_args": {"act": {"class_path": "os.system"}}}},
                "os.system",
            ),
            ({"network": {"class_path": "torch.nn.Flatten"}}, "missing none; unknown body.0.bias"),
            (
                {"network": {"class_path": "helpers.tiny.Net", "code": "import os"}},
                "its network is missing, of an unknown type",
            ),
            ({"code": "import os"}, "its code is missing, of an unknown type, or no part of a card"),
            ({"width": "removed"}, "its width is missing"),
            ({"version": "../../../etc"}, "its version is missing, of an unknown type"),
            ({"counts": [1]}, "its counts is missing, of an unknown type"),
            ({"files": {"encoder": {"bytes": 1, "fingerprint": "x"}}}, "its files is missing, of an unknown type"),
            (
                {"files": {p: {"bytes": -1, "fingerprint": "x"} for p in ("centroids", "encoder")}},
                "its files is missing",
            ),
            ({"cost": float("inf")}, "its cost is missing, of an unknown type"),
            ({"format": 2}, "is no card of format 3"),
            ({"name": "b"}, "is the card of 'b', not of 'a'"),
        ],
    )
    def test_a_card_that_says_something_else(self, folder, changes, message):
        registry_sources.publish(folder, "a")
        edit(folder, "a", **changes)
        with pytest.raises(InputError, match=message):
            folder.load("a")
        assert "antigravity" not in sys.modules

    def test_code_in_place_of_weights(self, folder, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "owned"),)

        registry_sources.publish(folder, "a")
        card = folder.card("a")
        content = pickle.dumps(Evil())
        path_of(folder, card, "encoder.safetensors").write_bytes(content)
        fitting = {"bytes": len(content), "fingerprint": digest(np.frombuffer(content, np.uint8))}
        edit(folder, "a", files=card.files | {"encoder": fitting})
        with pytest.raises(InputError, match=r"encoder\.safetensors is no safetensors file"):
            folder.load("a")
        assert not (tmp_path / "owned").exists()

    def test_centroids_of_another_shape(self, folder):
        registry_sources.publish(folder, "a")
        edit(folder, "a", width=3)
        with pytest.raises(InputError, match=r"its centroids have shape \(4, 5\); expected, from its card, \(4, 3\)"):
            folder.centroids(folder.card("a"))


class TestNetwork:
    """A web server before a folder; connections break."""

    @pytest.mark.slow
    def test_what_a_server_shows_is_read(self, folder):
        for name in ("a b", "100%25", "häuser#?&"):
            registry_sources.publish(folder, name, seed=1)
        with registry_sources.served(Path(folder.address)) as (address, asked):
            far = ExpertRegistry(address + "/")
            assert far.names == folder.names
            assert far.load("häuser#?&").fingerprint == folder.load("häuser#?&").fingerprint
            assert torch.equal(far.centroids(far.card("100%25"))[1], folder.centroids(folder.card("100%25"))[1])
            assert asked[0] == "/index.json"
            down = sum(one.num_bytes for one in far.ledger)
            local = folder.reader()
            assert local.names and local.load("häuser#?&") and local.centroids(local.card("100%25"))
            packed = [Path(folder.address, "index.json"), *Path(folder.address, "cards").iterdir()]
            cards = sum(path.stat().st_size for path in Path(folder.address).glob("*/card.json"))
            assert down == sum(one.num_bytes for one in local.ledger) - cards + sum(f.stat().st_size for f in packed)
            with pytest.raises(InputError, match="is read-only; publish to the folder"):
                registry_sources.publish(far, "c")
            with pytest.raises(InputError, match="has no source 'c'; it has 100%25, a b, häuser"):
                far.load("c")

    @pytest.mark.parametrize("declares_length", [True, False])
    @pytest.mark.slow
    def test_a_read_that_breaks_is_tried_again(self, folder, declares_length):
        given = registry_sources.publish(folder, "a")
        breaks = {"index.json": 1, "card.json": 1, "encoder.safetensors": 2}
        with registry_sources.served(Path(folder.address), breaks, declares_length) as (address, asked):
            far = ExpertRegistry(address)
            assert far.names == ["a"]
            assert far.load("a").fingerprint == given.fingerprint
        encoder = [one.num_bytes for one in far.ledger if one.file == "encoder.safetensors"]
        size = folder.card("a").files["encoder"]["bytes"]
        assert encoder == [size // 2, size // 2, size]  # what broke was read as well
        assert sum("encoder" in path for path in asked) == 3

    @pytest.mark.slow
    def test_an_address_that_dies_for_good(self, folder):
        registry_sources.publish(folder, "a")
        size = folder.card("a").files["head"]["bytes"]
        with registry_sources.served(Path(folder.address), {"head.safetensors": 99}) as (address, asked):
            far = ExpertRegistry(address)
            with pytest.raises(
                UnreachableError,
                match=rf"head\.safetensors could not be read \(.*; tried 3 times; the last one broke after {size // 2} "
                "bytes, which were discarded",
            ):
                far.load("a")
            assert sum("head" in path for path in asked) == 3
        with pytest.raises(UnreachableError, match=r"index\.json could not be read \(.*tried 3 times"):
            far.names  # noqa: B018

    @pytest.mark.slow
    def test_a_silent_server(self, folder):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            far = ExpertRegistry(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.1)
            with pytest.raises(UnreachableError, match="Timeout"):
                far.names  # noqa: B018

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, r"found no .*index\.json; 'publish' writes it into the folder that the server serves"),
            ('{"format": 3, "sources": ["a', "is no complete index of format 3"),
            (
                json.dumps(sealed_entries({"format": 3, "sources": ["b" * 151]})),
                r"the name .* has 151 bytes; expected 1 to 150",
            ),
            ("[]", "is no complete index"),
            ("[" * 100_000, "is no complete index"),
        ],
    )
    @pytest.mark.slow
    def test_an_index_that_is_none(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "index.json").write_text(content)
        with registry_sources.served(tmp_path) as (address, _), pytest.raises(InputError, match=message):
            ExpertRegistry(address).names  # noqa: B018


class TestBadInput:
    @pytest.mark.parametrize(
        ("given", "arguments", "message"),
        [
            ({}, {"name": ""}, "the source's name '' has 0 bytes; expected 1 to 150"),
            ({"features": None}, {}, "features is not set; set it to the submodule"),
            ({"preprocess": nn.Identity()}, {}, "preprocess cannot be stored in a card"),
            ({}, {"network": None}, "the network of a is not recorded; set network to the class"),
            (
                {},
                {"network": lambda classes: tiny.Net(classes)},
                "network: a is built by .*put it into a class of your module",
            ),
            ({}, {"network": partial(tiny.Net, dropout=0.5)}, "builds another network than that of a"),
            ({}, {"network": partial(tiny.Net, hidden=9)}, "the weights do not match the description of a"),
            ({}, {"network": {"class_path": "os.system"}}, "names os.system, which is not an imported module"),
            (
                {},
                {"network": {"class_path": "helpers.tiny.Net", "more": 1}},
                "the description of a: network has class_path, more; expected a class_path, and init_args",
            ),
            ({}, {"statistics": None}, "TensorDataModule computes none; pass the values"),
            ({}, {"statistics": [1.0, float("nan")]}, r"number\(s\) 1 of 2 are NaN or infinite"),
            ({}, {"statistics": [[1.0]]}, r"found shape \(1, 1\); expected \(S,\)"),
            ({}, {"data": registry_sources.data(["fox", "hen"])}, "no labeled sample is of a class of a"),
            (
                {},
                {"data": TensorDataModule({"train": (torch.zeros(3, 4), torch.full((3,), -100))}, CLASSES)},
                "the train split has no labeled sample, so a has no centroids",
            ),
            (
                {},
                {"data": TensorDataModule({"train": (torch.zeros(3, 5), torch.zeros(3).long())}, CLASSES)},
                "a does not run on this data: mat1 and mat2",
            ),
            (
                {},
                {"data": TensorDataModule({"train": (torch.full((3, 4), torch.nan), torch.zeros(3).long())}, CLASSES)},
                r"its representation or output is NaN or infinite for sample\(s\) 0, 1, 2",
            ),
        ],
    )
    def test_rejected_and_nothing_is_written(self, registry, given, arguments, message):
        basis = {"data": registry_sources.data(), "name": "a", "statistics": [1.0], "network": tiny.Net}
        with pytest.raises(InputError, match=message):
            registry.publish(registry_sources.expert(**given), **(basis | arguments))
        assert registry.names == []
        assert not registry.files.fs.exists(registry.files.root) or registry.files.fs.find(registry.files.root) == []

    def test_a_callable_has_no_weights(self, registry):
        given = Expert(lambda x: x, classes=CLASSES, output="probabilities")
        with pytest.raises(InputError, match="a plain callable has no weights to publish"):
            registry.publish(given, registry_sources.data(), "a", statistics=[1.0])

    def test_unknown_addresses_and_names(self, registry):
        with pytest.raises(InputError, match="cannot be opened by fsspec"):
            ExpertRegistry("gopher://somewhere")
        for none in ("", __file__):
            with pytest.raises(InputError, match=r"address: .* is no folder"):
                ExpertRegistry(none)
        assert registry.names == []
        with pytest.raises(InputError, match=r"has no source 'a'; it has none"):
            registry.load("a")

    def test_a_file_that_may_not_be_read(self, folder):
        registry_sources.publish(folder, "a")
        card = Path(folder.address) / "a" / "card.json"
        card.unlink()
        card.mkdir()
        with pytest.raises(InputError, match=r"card\.json could not be read \(it is no regular file"):
            folder.load("a")
        assert folder.names == []


def test_statistics_are_float32_vectors():
    assert statistics_of(registry_sources.data(), np.arange(3)).dtype == torch.float32
