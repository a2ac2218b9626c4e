"""A registry that others write: nothing is lost for readers, and nothing hostile hangs or fills the memory."""

import gzip
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import registry_sources, sealed, tiny

from lightning_fusion import Expert, ExpertRegistry, select_sources
from lightning_fusion.errors import InputError
from lightning_fusion.files import sealed as sealed_entries
from lightning_fusion.registry.transport import UnreachableError


@contextmanager
def server(answers) -> Iterator[str]:
    """A server whose paths are answered by functions of the request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = answers.get(self.path) or answers.get("*")
            try:
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)
            except OSError:  # the reader gave up
                pass
            self.close_connection = True

        def log_message(self, *_) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()


def body(content: bytes, **headers: str):
    def answer(handler) -> None:
        handler.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def index(*names: str):
    return body(json.dumps(sealed_entries({"format": 3, "sources": list(names)})).encode())


def redirect(target: str):
    def answer(handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def endless(chunk: bytes, pause_s: float = 0.0):
    def answer(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100_000):
            handler.wfile.write(chunk)
            handler.wfile.flush()
            time.sleep(pause_s)

    return answer


@pytest.fixture
def folder(tmp_path) -> ExpertRegistry:
    return ExpertRegistry(str(tmp_path / "shared"))


class TestPublishing:
    def test_killed_before_the_index(self, folder, monkeypatch):
        """The source becomes visible for readers of the index with the next publication of any source, or a retry."""
        registry_sources.publish(folder, "a")

        def killed(self, name: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(ExpertRegistry, "_write_index", killed)
            with pytest.raises(KeyboardInterrupt):
                registry_sources.publish(folder, "b")
        listed = Path(folder.address) / "index.json"
        assert json.loads(listed.read_text())["sources"] == ["a"] and folder.names == ["a", "b"]
        again = registry_sources.publish(folder, "b")
        assert (
            json.loads(listed.read_text())["sources"] == ["a", "b"]
            and folder.load("b").fingerprint == again.fingerprint
        )
        with pytest.raises(InputError, match="has a source 'b' already"):
            registry_sources.publish(folder, "b")

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_killed_before_the_packed_cards(self, folder, monkeypatch, overwrite):
        """A reader over http sees whole sources only, the earlier one or none, until the next publication."""

        def killed(self, files: set[str]) -> None:
            raise KeyboardInterrupt

        for name in ("a", *(["b"] if overwrite else [])):
            registry_sources.publish(folder, name)
        earlier = folder.cards()
        with monkeypatch.context() as patch:
            patch.setattr(ExpertRegistry, "_pack", killed)
            with pytest.raises(KeyboardInterrupt):
                registry_sources.publish(folder, "b", seed=1, overwrite=overwrite)
        with registry_sources.served(Path(folder.address)) as (url, _):
            far = ExpertRegistry(url)
            assert far.cards() == earlier != folder.cards()
            assert all(far.weights(card, "encoder") for card in earlier.values())
            registry_sources.publish(folder, "b" if overwrite else "c", seed=1, overwrite=True)
            assert far.cards() == folder.cards()

    @pytest.mark.parametrize(
        "content", [b"", b"[]", gzip.compress(b"[" * 9999, mtime=0), pytest.param(None, marks=pytest.mark.slow)]
    )
    def test_damaged_packed_cards_are_named(self, folder, content):
        content = gzip.compress(bytes(300 << 20), 1, mtime=0)[:-9] if content is None else content
        registry_sources.publish(folder, "a")
        packed = next(Path(folder.address, "cards").iterdir())
        packed.write_bytes(content)
        with registry_sources.served(Path(folder.address)) as (url, _), pytest.warns(UserWarning, match=packed.name):
            assert not ExpertRegistry(url).cards()
        packed.unlink()  # of a registry of an earlier release: its cards are read one by one
        with registry_sources.served(Path(folder.address)) as (url, _):
            assert ExpertRegistry(url).names == ["a"]

    def test_another_expert_does_not_complete_a_killed_one(self, folder):
        registry_sources.publish(folder, "b")
        (Path(folder.address) / "index.json").unlink()
        with pytest.raises(InputError, match="has another source 'b' already"):
            registry_sources.publish(folder, "b", seed=5)
        assert json.loads((Path(folder.address) / "index.json").read_text())["sources"] == ["b"]

    def test_versions_do_not_pile_up(self, folder):
        registry_sources.publish(folder, "a")
        remains = Path(folder.address) / "a" / "0123456789ab"  # of a killed publication
        remains.mkdir()
        (Path(folder.address) / "a" / "mine").mkdir()
        for seed in (1, 2):
            registry_sources.publish(folder, "a", seed=seed, overwrite=True)
        names = {path.name for path in (Path(folder.address) / "a").iterdir()}
        assert names == {folder.card("a").version, "card.json", "mine"}


class TestReaders:
    def test_a_version_that_is_removed_meanwhile(self, folder):
        """Between card and weights the source is published again."""
        registry_sources.publish(folder, "a")
        read, cards = folder.card, []

        def card(name):
            cards.append(read(name))
            if len(cards) == 1:
                registry_sources.publish(ExpertRegistry(folder.address), "a", seed=3, overwrite=True)
            return cards[-1]

        folder.card = card
        assert folder.load("a").fingerprint == cards[-1].fingerprint != cards[0].fingerprint

    @pytest.mark.filterwarnings("ignore")
    def test_a_selection_reads_the_current_version(self, folder, monkeypatch):
        for name in ("a", "b"):
            registry_sources.publish(folder, name)
        read, done = ExpertRegistry.weights, []

        def weights(self, card, part):
            if not done:
                registry_sources.publish(ExpertRegistry(folder.address), card.name, seed=4, overwrite=True)
                done.append(folder.card(card.name))
            return read(self, card, part)

        monkeypatch.setattr(ExpertRegistry, "weights", weights)
        target = registry_sources.data()
        found = select_sources(folder, target, 1.0, 2, statistics=[1.0, 1.0])
        assert found.cards[done[0].name] == done[0] and set(found.experts) == {"a", "b"}

    def test_a_pipe_does_not_block(self, folder):
        registry_sources.publish(folder, "a")
        path = Path(folder.address) / "a" / "card.json"
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match="no regular file"):
            folder.card("a")
        assert folder.names == []


class TestHostile:
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_one_failing_source_is_reported_and_fails_nothing(self, folder, monkeypatch):
        registry_sources.publish(folder, "good")
        root = Path(folder.address)
        names = ["good", "large", "elsewhere", "missing", "deep", "packed"]
        files = {f"/{path.relative_to(root)}": body(path.read_bytes()) for path in root.rglob("*.*") if path.is_file()}
        files |= {
            "/index.json": index(*names),
            "/large/card.json": endless(b"[" * (1 << 20)),
            "/elsewhere/card.json": redirect("http://localhost:1/card.json"),
            "/deep/card.json": body(b"[" * 100_000),
            "/packed/card.json": body(b"\x1f\x8b" + bytes(100), Content_Encoding="gzip"),
        }
        with server(files) as address:
            registry = ExpertRegistry(address, timeout_s=5.0)
            with pytest.warns(UserWarning, match=r"left out 5 source\(s\)"):
                assert registry.names == ["good"]
            for name, message in (("large", "more than 4,194,304 bytes"), ("elsewhere", "redirected to another host")):
                with pytest.raises(InputError, match=message):
                    registry.card(name)

    def test_a_redirect_within_the_server_is_followed(self, folder):
        registry_sources.publish(folder, "a")
        card = Path(folder.address, "a", "card.json").read_bytes()
        with server({"/a/card.json": redirect("/b.json"), "/b.json": body(card)}) as address:
            assert ExpertRegistry(address).card("a") == folder.card("a")

    def test_many_names(self):
        with (
            server({"/index.json": index(*(f"s{number}" for number in range(10_001)))}) as address,
            pytest.raises(InputError, match="names 10,001 sources; at most 10,000 are read"),
        ):
            ExpertRegistry(address).names  # noqa: B018

    @pytest.mark.slow
    def test_a_drip(self, monkeypatch):
        """A byte per half second is always within the time-out between two bytes."""
        monkeypatch.setattr("lightning_fusion.registry.transport._SLOWEST", 1e9)
        with (
            server({"/index.json": index("a"), "*": endless(b" ", 0.1)}) as address,
            pytest.raises(UnreachableError, match="took more than 1 s"),
        ):
            ExpertRegistry(address, timeout_s=1.0).names  # noqa: B018

    def test_cards_after_the_deadline_are_left_out(self, folder):
        registry_sources.publish(folder, "a")
        late = ExpertRegistry(folder.address, deadline_s=-1.0)
        with pytest.warns(UserWarning, match="was not read within deadline_s"):
            assert late.names == []

    @pytest.mark.parametrize("part", ["encoder", "head"])
    def test_more_bytes_than_the_card_says(self, part, folder):
        registry_sources.publish(folder, "a")
        path = Path(folder.address, "a", folder.card("a").version, f"{part}.safetensors")
        path.write_bytes(path.read_bytes() + bytes(10))
        with pytest.raises(InputError, match=r"has more than .* bytes"):
            folder.load("a")

    def test_a_source_larger_than_permitted(self, folder):
        registry_sources.publish(folder, "a")
        sealed.edit(
            Path(folder.address, "a", "card.json"),
            lambda card: card | {"files": card["files"] | {"encoder": {"bytes": 10**13, "fingerprint": ""}}},
        )
        with pytest.raises(InputError, match=r"its files have 10000\.0 GB; max_source_gb is 4"):
            folder.load("a")

    @pytest.mark.parametrize("path", ["/etc", "../models", "~/model", "models", r"\\host\share", "file:///etc"])
    def test_a_card_that_names_files_of_the_reader(self, path, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("models").mkdir()
        registry_sources.publish(folder, "a")
        network = {
            "class_path": "lightning_fusion.experts.adapters.transformers.TransformersClassifier",
            "init_args": {"path": path},
        }
        sealed.edit(Path(folder.address, "a", "card.json"), lambda card: card | {"network": network})
        with pytest.raises(InputError, match="names the file"):
            folder.load("a")

    def test_a_network_of_gigabytes_is_not_built(self, folder):
        registry_sources.publish(folder, "a")
        network = {"class_path": "helpers.tiny.Net", "init_args": {"hidden": 10**9}}
        sealed.edit(Path(folder.address, "a", "card.json"), lambda card: card | {"network": network})
        with pytest.raises(InputError, match=r"needs more than|does not accept these arguments .RuntimeError"):
            folder.load("a")


def test_published_by_this_library():
    expert = Expert(tiny.Net(3), classes=tiny.CLASSES, features="body")
    registry = ExpertRegistry("memory://published_by_tests")
    registry.publish(expert, tiny.data(), "a", statistics=[1.0], network=tiny.Net)
    assert registry.load("a").fingerprint == expert.fingerprint
