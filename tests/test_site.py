"""The documentation site: ``make docs`` builds it strictly; here, what the build would not notice."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
from helpers import TESTS

HOOKS = TESTS.parent / "docs/hooks"


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(HOOKS)
    loaded = {}
    for name in ("pages", "links"):
        spec = importlib.util.spec_from_file_location(name, HOOKS / f"{name}.py")
        loaded[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded[name])
        spec.loader.exec_module(loaded[name])
    return SimpleNamespace(**loaded)


def rewritten(hooks, markdown: str, page: str) -> str:
    files = [SimpleNamespace(src_uri=uri) for uri in ("index.md", "methods/foe.md", "tutorials/tour.md", page)]
    return hooks.links.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)), None, files)


def test_links_between_files_lead_to_pages(hooks):
    assert rewritten(hooks, "[FoE](docs/methods/foe.md#baselines)", "index.md") == "[FoE](methods/foe.md#baselines)"
    assert rewritten(hooks, "[tour](../notebooks/tour.ipynb)", "text.md") == "[tour](tutorials/tour.md)"
    assert rewritten(hooks, "[README](../../README.md)", "how-to/query.md") == "[README](../index.md)"


def test_files_without_a_page_are_named_and_missing_ones_are_left_to_the_build(hooks):
    assert rewritten(hooks, "see [the license](LICENSE)", "index.md") == "see the license"
    assert rewritten(hooks, "[gone](docs/gone.md)", "index.md") == "[gone](docs/gone.md)"


def test_patterns_of_the_navigation(hooks):
    pages = ["how-to/a.md", "how-to/b.md", "tutorials/index.md", "tutorials/t.md"]
    nav = [{"Tasks": ["how-to/*.md"]}, {"Tutorials": ["tutorials/index.md", "tutorials/*.md"]}]
    expanded = hooks.pages._expanded(nav, pages)
    assert expanded == [{"Tasks": pages[:2]}, {"Tutorials": pages[2:]}]
    with pytest.raises(ValueError, match=r"no page matches gone/\*"):
        hooks.pages._expanded(["gone/*"], pages)


@pytest.mark.slow
def test_every_public_name_has_a_page(hooks):
    from lightning_fusion import PUBLIC

    named = {f"{module.path}.{name}" for module in hooks.pages.modules() for name in module.names}
    assert {f"lightning_fusion.{path}.{name}" for name, path in PUBLIC.items()} <= named


def test_a_page_that_loads_from_other_servers_stops_the_build(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    assert hooks.links.on_post_page('<a href="https://example.org">x</a>', page, None)
    with pytest.raises(ValueError, match=r"index\.md loads https://example\.org/x\.js"):
        hooks.links.on_post_page('<script src="https://example.org/x.js"></script>', page, None)


def test_formulas_become_mathml(hooks):
    content = hooks.links.on_page_content('<span class="arithmatex">\\(a_i\\)</span>', None, None, None)
    assert content.startswith("<math") and "arithmatex" not in content
