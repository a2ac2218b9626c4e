"""Configurations are written by the compiled writer of YAML as by the one in Python."""

import yaml
from jsonargparse import ArgumentParser

from lightning_fusion.cli.parser import load_dumped

AWKWARD = {
    "ü": "ä\u2028b",
    "long": "word " * 60,
    "😀": "an emoji",
    "numbers": [1e-05, 1e22, float("inf"), -0.0, 1_000],
    "texts": ["1e-5", "yes", "null", "${a.b}", "a: b\nc\n", "it's", "#no", "2020-01-01", "~", ""],
    "empty": [{}, [], None],
}


def test_is_as_readable_and_is_read_as_it_was():
    parser = ArgumentParser()
    parser.add_argument("--value", type=dict)
    text = parser.dump(parser.parse_object({"value": AWKWARD}))
    assert text == yaml.safe_dump({"value": AWKWARD}, sort_keys=False, allow_unicode=True)
    assert load_dumped(text) == {"value": AWKWARD}
