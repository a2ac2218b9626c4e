"""An expert with the weights of its constructor is reported from the command line."""

import json
import warnings

import pytest

from lightning_fusion.cli.main import main

MESSAGE = (
    "experts: the networks of 1 expert(s) (mine) have no checkpoint: their weights are those of the constructor; set "
    "checkpoint, unless the constructor loads trained weights"
)
DATA = "lightning_fusion.data.image.synthetic.SyntheticImageDataModule"
NET = {"class_path": "lightning_fusion.encoders.SmallConvNet", "init_args": {"num_classes": 4, "width": 2}}


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if str(each.message).startswith("experts:")]


def pool(classes, **arguments):
    network = {"classes": classes, "network": NET} | arguments
    return json.dumps({"mine": {"class_path": "lightning_fusion.Expert", "init_args": network}})


@pytest.fixture(scope="module")
def classes():
    from lightning_fusion.data.image.synthetic import SyntheticImageDataModule

    return SyntheticImageDataModule(image_size=8).classes


def arguments(classes, **changes):
    net = NET | {"init_args": {"num_classes": len(classes), "width": 2}}
    return ["--experts", pool(classes, network=net, **changes), f"--data={DATA}", "--data.init_args.image_size=8"]


def test_by_collect(classes, tmp_path):
    given = ["collect", *arguments(classes), "--splits=[test]", f"--output={tmp_path / 'out'}"]
    assert said(lambda: main(given)) == [MESSAGE]


@pytest.mark.slow
def test_by_a_training_run(classes, tmp_path):
    given = ["fit", "--model=lightning_fusion.FoEFuserModule", *arguments(classes), "--trainer.fast_dev_run=true"]
    given = [arg.replace("--experts", "--model.init_args.experts") for arg in given]
    assert said(lambda: main([*given, f"--trainer.default_root_dir={tmp_path}"])) == [MESSAGE]


def test_weights_of_the_constructor_are_silent(classes, monkeypatch):
    from lightning_fusion.cli.checks import warn_untrained
    from lightning_fusion.encoders import SmallConvNet
    from lightning_fusion.experts.expert import Expert

    experts = {"mine": Expert(SmallConvNet(2), classes=["a", "b"])}
    for key in ("weights", "pretrained", "path"):
        for value, count in (("a", 0), (None, 1), (False, 1)):
            network = {"class_path": "x.Net", "init_args": {key: value}}
            config = {"mine": {"class_path": "lightning_fusion.Expert", "init_args": {"network": network}}}
            assert len(said(lambda config=config: warn_untrained(experts, config))) == count
    experts = {"mine": type("FolderExpert", (Expert,), {})(SmallConvNet(2), classes=["a", "b"])}
    assert not said(lambda: warn_untrained(experts, {}))  # such as TimmExpert, which reads the weights itself
    callables = {"mine": Expert(lambda input: input, classes=["a", "b"])}
    assert not said(lambda: warn_untrained(callables, {}))
