import gc
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from helpers import warm

os.environ["MATPLOTLIBRC"] = str(Path(__file__).parent)  # of figures with fewer pixels, in other processes too


def pytest_collection() -> None:
    """Set up what all tests use; pytest-xdist does not call this where it only distributes tests to workers."""
    gc.disable()  # a tenth of the time of imports, which leave nothing to collect
    import torch
    from hypothesis import settings
    from lightning.fabric.utilities import registry

    torch.set_num_threads(1)
    warm.start()  # before anything of this library is imported
    registry.entry_points = cache(registry.entry_points)  # each Trainer looks through all installed packages
    # a change is judged by its own examples, not by luck; "search" draws more of them
    settings.register_profile("repeatable", derandomize=True, max_examples=50)
    settings.register_profile("search", max_examples=1000, deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What reads a real data set is slow without a word of its own."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
            item.add_marker("slow")
    if "PYTEST_XDIST_WORKER" in os.environ:  # what takes longest first, so that no core waits at the end
        fast_only = config.getoption("markexpr") == "not slow"
        tests = Counter(item.path for item in items if (item.get_closest_marker("slow") is None) == fast_only)
        first = {"test_notebooks.py": -1}
        items.sort(key=lambda item: (first.get(item.path.name, 0), not _starts_processes(item), -tests[item.path]))


def pytest_collection_finish() -> None:
    """Collect garbage of the tests, without another look at what was imported."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # by default the search for cycles takes a thirtieth of all time
    gc.enable()


def pytest_unconfigure() -> None:
    """End what waits for processes to start."""
    warm.stop()


def _starts_processes(item: pytest.Item) -> bool:
    names = vars(getattr(item, "module", None) or object).keys()
    return not names.isdisjoint({"subprocess", "run_module", "together"})


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Keep the process that distributes tests light: it imports the classes of warnings, and Lightning with them."""
    if "PYTEST_XDIST_WORKER" in os.environ and warning_message.category.__module__ != "builtins":
        warning_message.category = UserWarning
        warning_message.message = UserWarning(str(warning_message.message))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Draw the same in each run, whichever tests ran before and made the fixture first."""
    _seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Draw the same in each run, whichever tests ran before in the same process."""
    _seed(getattr(item, "originalname", item.name))


def _seed(name: str) -> None:
    number = crc32(name.encode())
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(number)  # manual_seed keeps a stack for each GPU type


def pytest_runtest_teardown() -> None:
    """Undo what Lightning leaves where a data module raised: it would take every later loader for one that it made."""
    if "torch.utils.data" in sys.modules:
        loader = sys.modules["torch.utils.data"].DataLoader
        for name in ("__init__", "__setattr__", "__delattr__"):
            if f"__old{name}" in vars(loader):
                setattr(loader, name, getattr(loader, f"__old{name}"))
                delattr(loader, f"__old{name}")


_seen = 0  # number of modules that are imported


@pytest.fixture(autouse=True)
def _without_lazy_modules() -> None:
    """SpeechBrain leaves modules that fail at every look; hypothesis looks at all that are imported."""
    global _seen
    if len(sys.modules) == _seen:
        return
    loaded = list(sys.modules) if "speechbrain" in sys.modules else []
    for name in [name for name in loaded if name.partition(".")[0] == "speechbrain"]:
        if any(kind.__name__ == "LazyModule" for kind in type(sys.modules[name]).__mro__):
            del sys.modules[name]
    _seen = len(sys.modules)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write figures without what is in them: a tenth of a recipe is drawing; what a module's fixtures run is drawn."""
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def blank(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figure.clear()
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", blank)


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Gives the folder of an unpacked real data set by its name."""

    def folder(name: str) -> Path:
        root = os.environ.get("LIGHTNING_FUSION_DATA")
        if not root or not Path(root).is_dir():
            pytest.skip("LIGHTNING_FUSION_DATA names no folder with unpacked data sets")
        if not (Path(root) / name).is_dir():
            pytest.skip(f"{Path(root) / name} is not unpacked")
        return Path(root) / name

    return folder
