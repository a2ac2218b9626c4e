"""A registry from the command line: published, selected over http, and read again as a pool."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers.command_line import refused, write_yaml
from helpers.image_trees import draw_tree
from helpers.registry_sources import served
from torch import nn

from lightning_fusion import ExpertOutputs, ExpertRegistry
from lightning_fusion.cli.main import main
from lightning_fusion.data.sensor.table import FeatureTableDataModule

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, hidden=4):
        super().__init__(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
"""
CLASSES = ["rest", "walk"]
NAMES = ["ann.phone", "${oc.env:HOME}"]  # names are free text: no key of a configuration, and no interpolation


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a network and a table of features of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_net.py").write_text(NET)
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(90, 3)), columns=["a", "b", "c"])
    table["label"], table["person"] = np.resize(CLASSES, 90), np.repeat(["ann", "bob", "eve"], 30)
    table.to_csv("features.csv", index=False)
    data = {
        "class_path": "lightning_fusion.data.sensor.table.FeatureTableDataModule",
        "init_args": {"root": "features.csv", "label": "label", "domain_fields": ["person"]},
    }
    fixed = {"mean": [0, 0, 0], "std": [2, 2, 2]}
    target = {"domain": "eve", "labeled_per_class": 3}
    view = {"class_path": "lightning_fusion.data.views.target.TargetDataModule", "init_args": target | {"data": data}}
    write_yaml(
        Path("expert.yaml"),
        {
            "data": {**data, "init_args": data["init_args"] | fixed},
            "model": {"class_path": "none"},
            "trainer": {"max_epochs": 1},
        },
    )
    write_yaml(Path("target.yaml"), {"data": view})
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict(), "weights.pt")
    yield tmp_path
    sys.modules.pop("own_net", None)


PUBLISH = ["publish", "-c", "expert.yaml", "--registry=shared", "--checkpoint=weights.pt", "--classes=[rest, walk]"]
SELECT = ["select", "-c", "target.yaml", "--output=sources", "--keep_fraction=1"]


@pytest.mark.slow
def test_what_is_selected_over_http_is_a_pool_of_the_published_experts(folder, capsys):
    network = ["--network=own_net.Net", "--features=1"]
    card = main([*PUBLISH, f"--name={NAMES[0]}", "--data.init_args.domain=ann", *network, "--weights=int8"])
    told = capsys.readouterr().out
    assert f"the answer of the exact weights on {card.agreement:.2%} of {sum(card.counts)} samples" in told
    one = ExpertRegistry("shared").load(NAMES[0])
    data = FeatureTableDataModule(
        "features.csv", "label", domain_fields=["person"], domain="bob", mean=[0, 0, 0], std=[2, 2, 2]
    )
    ExpertRegistry("shared").publish(one, data, NAMES[1], network=card.network)
    assert "set overwrite" in refused([*PUBLISH, f"--name={NAMES[0]}", *network])
    with served(folder / "shared") as (address, _):
        del sys.modules["own_net"]  # nothing that a registry names is imported
        message = refused([*SELECT, f"--registry={address}"])
        assert (
            "own_net.Net, which is not an imported module; import it first (imports" in message
            and not Path("sources/pool.yaml").exists()
        )
        found = main([*SELECT, f"--registry={address}", "--imports=[own_net]"])
        assert "set overwrite" in refused([*SELECT, f"--registry={address}"])
    assert sorted(found.experts) == sorted(NAMES)
    told = capsys.readouterr().out
    assert "Sources ranked by product" in told and "-c sources/pool.yaml" in told and "data.yaml" in told
    assert "rank correlation with the accuracy on the target's labels: unknown, too few sources (2 of at least 4)" in (
        " ".join(told.split())
    )

    ledger, table = (json.loads(Path("sources", name).read_text()) for name in ("ledger.json", "selection.json"))
    assert ledger["stages"]["statistics"]["down"] > 0 and ledger["stages"]["models"]["down"] > 0
    assert [row["name"] for row in table["table"] if row["chosen"]] == list(found.experts)
    normalization = yaml.safe_load(Path("sources/data.yaml").read_text())["data"]["init_args"]["data"]["init_args"]
    assert normalization == {"mean": [0, 0, 0], "std": [2, 2, 2]}
    entry = yaml.safe_load(Path("sources/pool.yaml").read_text())["experts"][NAMES[0]]["init_args"]
    assert entry["network"] == {"class_path": "own_net.Net", "init_args": {"num_classes": 2, "hidden": 4}}

    store = ["--data=lightning_fusion.data.sensor.table.FeatureTableDataModule", "--data.root=features.csv"]
    store += ["--data.label=label", "--data.domain_fields=[person]", "--output=store", "--splits=[test]"]
    main(["collect", "-c", "sources/pool.yaml", *store])
    outputs = ExpertOutputs.open("store")
    for name in NAMES:
        published = ExpertRegistry("shared").load(name)
        assert outputs.metadata()["experts"][name]["fingerprint"] == published.fingerprint


@pytest.mark.parametrize(
    "args, message",
    [
        (PUBLISH, "network: checkpoint weights.pt does not record"),
        ([*PUBLISH, "--checkpoint=epoch=1-step=2.ckpt", "--data.init_args.domain=bob"], "name is not set, and"),
        ([*PUBLISH, "--checkpoint=last-v1.ckpt", "--data.init_args.domain=bob"], "set it, such as --name=bob"),
        ([*PUBLISH, "--network=own_net.Net"], "features is not set"),
        ([*SELECT, "--registry=nowhere"], "nowhere"),
        ([*SELECT, "--registry=s3://bucket/experts"], "s3fs"),
        ([*SELECT, "--registry=shared", "--imports=[no_module]"], "imports: no_module cannot be imported"),
    ],
)
def test_what_is_wrong_is_one_line(folder, args, message):
    assert message in refused(args)


@pytest.mark.slow
def test_a_newcomer_with_images_selects_trains_and_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for site in ("far", "near"):
        draw_tree(tmp_path / "lab", [site], ["a", "b"], 8)
    draw_tree(tmp_path / "home", ["phone"], ["a", "b", "unlabeled"], 6)
    kind = "lightning_fusion.data.image.folders.DomainImageDataModule"
    scale = {"mean": [0.5] * 3, "std": [0.25] * 3}
    network = {"class_path": "lightning_fusion.encoders.SmallConvNet", "init_args": {"width": 2}}
    model = {"network": network, "features": "pool"}
    how = {"dirpath": "run", "filename": "m", "enable_version_counter": False}
    saved = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": how}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "default_root_dir": "run", "callbacks": [saved]}
    lab = {"class_path": kind, "init_args": {"root": "lab", **scale}}
    home = {"class_path": kind, "init_args": {"root": "home", "ignored_labels": ["unlabeled"], **scale}}
    target = {"domain": "phone", "labeled_fraction": None, "data": home}
    view = {"class_path": "lightning_fusion.TargetDataModule", "init_args": target}
    for name, own, data in (("ExpertModule", "lab", lab), ("HaTJointModule", "home", view)):
        made = {"class_path": f"lightning_fusion.{name}", "init_args": model}
        write_yaml(Path(f"{own}.yaml"), {"model": made, "data": data, "trainer": trainer})
    for site in ("far", "near"):
        more = [f"--data.init_args.domain={site}", "--overwrite=true"]
        main(["fit", "-c", "lab.yaml", *more])
        main(["publish", "-c", "lab.yaml", more[0], "--checkpoint=run/m.ckpt", f"--name={site}", "--registry=shared"])
    main(["select", "-c", "home.yaml", "--registry=shared", "--output=sources"])
    files = ["-c", "home.yaml", "-c", "sources/pool.yaml"]
    cli = main(["fit", *files, "--overwrite=true"])
    assert len(cli.datamodule.labeled()) == 12 and len(cli.datamodule.rows("train")) == 18
    main(["predict", *files, "--ckpt_path=run/m.ckpt", "--data.init_args.predict_root=home"])
    assert len(pd.read_csv("run/predictions.csv")) == 18
