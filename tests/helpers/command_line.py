"""The command line on problems that take a second: what the tests of the shipped YAMLs share."""

import copy
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from helpers import data_files, language_models, models, warm
from lightning_fusion.cli import commands, training
from lightning_fusion.cli.config import shipped_configs
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError

CONFIGS = shipped_configs()
EXPERTS = ("domain_0", "domain_1")  # on digits, and on texts
SENSORS = ("p1_phone", "p1_watch")

# The one shared override, by key, wherever in a file the key stands.
SMALL: dict[str, Any] = {
    "num_domains": 2,
    "classes_per_domain": 6,
    "batch_size": 16,
    "num_workers": 1,  # 0 where a file has none
    "image_size": 32,  # less gives ResNets maps of 1x1; bf16 convolutions of stride 2 on those are NaN on some CPUs
    "width": 2,
    "heads": 1,
    "val_speakers": 4,
    "test_speakers": 4,
    "crop_s": 0.3,
    "eval_crop_s": 0.5,
    "hidden": [8],
    "epochs": 1,
    "attribution_rows": 4,
    "expert_epochs": 1,
    "source_epochs": 1,
    "num_targets": 2,
    "fuser_epochs": 1,
    "fuser_batch_size": 64,
    "max_length": 48,
    "seeds": [0],
    "strengths": [0, 1.0],  # of the reversal: one of them is picked
    "names": ["beaver", "ray"],  # classes
    "markers": ["alpha", "beta"],  # of the two classes that the news have here
    "lr": 1e-3,  # a rate for long training on many images may diverge in a few steps on 48
}
TWO_BATCHES: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 1,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
} | {f"limit_{split}_batches": 2 for split in ("train", "val", "test", "predict")}
# four fine classes of two super-classes stand in for CIFAR-100
CIFAR = {"root": "data/cifar100", "classes_per_domain": 3}


def publish_expert(name: str) -> None:
    """Publish an expert of configs/experts/sensor_synthetic.yaml in the registry of the working folder."""
    kept = f"--checkpoint=runs/sensor_synthetic/experts/{name}.ckpt"
    domain = f"--data.init_args.domain={name}"
    main(["publish", "-c", "experts/sensor_synthetic.yaml", domain, kept, "--registry=runs/registry"])


# recipe of the files that are not called after theirs
RECIPE_OF = {
    "recipes/acorl_forecast_digits.yaml": "acorl_forecast",
    "recipes/acorl_shortcut_digits.yaml": "acorl_shift",
    "recipes/acorl_shortcut_dominoes.yaml": "acorl_shift",
    "recipes/acorl_shortcut_sensors.yaml": "acorl_shift",
    "recipes/acorl_shortcut_text.yaml": "acorl_shift",
    "recipes/acorl_corrupted_cifar100.yaml": "acorl_shift",
    "recipes/acorl_devices.yaml": "acorl_shift",
    "recipes/acorl_products.yaml": "acorl_shift",
    "recipes/foe_headlines.yaml": "generative",
    "recipes/foe_multiple_choice.yaml": "multiple_choice",
    "recipes/foe_text_evaluation.yaml": "text_evaluation",
}


def recipe_of(name: str) -> str:
    """Name of the recipe that a shipped file is for."""
    return RECIPE_OF.get(name, Path(name).stem.partition("_")[0])


def shipped(*folders: str) -> list[str]:
    """Names of the shipped YAMLs in some folders of configs/, or of all."""
    names = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    return [name for name in names if not folders or name.partition("/")[0] in folders]


def read(name: str) -> dict[str, Any]:
    return copy.deepcopy(_content(CONFIGS / name))


@cache
def _content(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times as fast


def small(config: Any) -> dict[str, Any]:
    """What makes a configuration tiny: the keys of SMALL that it has, at their places; two experts; CIFAR as files."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key == "experts":
            result[key] = {name: value[name] for name in (*EXPERTS, *SENSORS) if name in value} or value
        elif isinstance(value, dict):
            result |= {key: inner} if (inner := small(value)) else {}
        elif key.endswith("_speakers") and config.get("split_by") == "recording":
            continue  # fractions of each speaker's recordings
        elif key in SMALL and value not in (None, 0) and not isinstance(value, str):  # 0 leaves a part out
            result[key] = 8 if key == "hidden" and isinstance(value, int) else SMALL[key]
    if str(config.get("dataset", "")).startswith("cifar"):
        result |= {key: value for key, value in CIFAR.items() if key in config}
    if "class_path" in config and result:
        of_files = config["class_path"].endswith("TorchvisionDataModule")
        result = {"class_path": "lightning_fusion.ImageDataModule" if of_files else config["class_path"]} | result
    return result


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both, key by key; the other wins."""
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys() if isinstance(other[key], dict)}
    return one | other | both


def write_yaml(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


@cache
def _prepared(base: Path) -> Path:
    """A folder in which a user has trained a speaker model and experts, and collected outputs; made once for a run."""
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "prepared.lock"):
        if not (shared / "prepared/complete").exists():
            _prepare(shared / "prepared")
            (shared / "prepared/complete").touch()
    return shared / "prepared"


def _prepare(folder: Path) -> None:
    data_files.images(folder / "data/images", {"studio": ["cat", "dog"], "street": ["cat", "dog", "owl"]}, 30)
    data_files.images(folder / "data/styles", {name: ["cat", "dog"] for name in ("photo", "sketch", "paint")}, 30)
    fine = ["beaver", "dolphin", "flatfish", "ray"]
    data_files.recordings(folder / "data/speakers", speakers=24, count=8)
    data_files.motion_files(folder / "data/spsw_har")
    data_files.own_recordings(folder / "data/recordings", folder / "data/spsw_har")
    data_files.review_files(folder / "data/blitzer")
    data_files.own_texts(folder / "data/texts.csv", folder / "data/blitzer")
    data_files.intent_files(folder / "data/clinc150")
    data_files.stance_files(folder / "data/tweeteval/stance")
    data_files.feature_table(folder / "data/wisdm/wisdm_transformed_with_user.csv", (17, 33, 41))
    data_files.news_files(folder / "data/ag_news")
    data_files.score_table(folder / "data/evaluation.csv")
    language_models.choice_files(folder / "data/mmlu")
    for name, kind in (("first", "gpt2"), ("second", "t5")):
        language_models.save_speaker(folder / "models" / name, kind)
    data_files.recordings(folder / "data/librispeech/train-clean-100", speakers=12, count=1)
    data_files.recordings(folder / "data/voxceleb2", speakers=12, count=2)
    data_files.spoken_words(folder / "data/fsdd/recordings")
    data_files.word_table(folder / "data/words.csv", folder / "data/fsdd/recordings")
    models.own_models(folder / "models")
    for name in ("librispeech/test-other", "voxceleb1"):
        data_files.recordings(folder / "data" / name, speakers=4, count=2, first=20)
    trials = ["1 s20/0.wav s20/1.wav", "1 s21/0.wav s21/1.wav", "0 s20/0.wav s21/0.wav", "0 s22/1.wav s23/1.wav"]
    (folder / "data/voxceleb1/veri_test2.txt").write_text("\n".join(trials))
    for name in ("cifar100", "imagenet100"):
        data_files.images(folder / "data" / name, {"train": fine, "test": fine}, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(2):
            train_expert(number)
        for name in SENSORS:
            train_expert(name, of="sensor_synthetic")
            publish_expert(name)
        main(["select", "-c", "hat/registry.yaml", "--registry=runs/registry", "--output=runs/sources"])
        for name in EXPERTS:
            train_expert(name, of="text_synthetic")
        speaker = write_yaml(Path("small/speaker.yaml"), small(read("experts/speaker.yaml")) | {"trainer": TWO_BATCHES})
        main(["fit", "-c", "experts/speaker.yaml", "-c", speaker])
        collect_outputs()
        collect_outputs(name="text_synthetic")
        collect_outputs(name="recordings")


def train_expert(domain: int | str, *more: str, of: str = "digits") -> Any:
    """Train one expert of a file in configs/experts for two batches."""
    override = small(read(f"experts/{of}.yaml")) | {"trainer": TWO_BATCHES}
    file = write_yaml(Path("small/expert.yaml"), override)
    options = [f"--data.init_args.domain={domain}", "--overwrite=true", *more]
    return main(["fit", "-c", f"experts/{of}.yaml", "-c", file, *options])


def collect_outputs(*more: str, name: str = "digits") -> Any:
    """Ask the two experts, as configs/foe/collect_NAME.yaml says with the pool of configs/experts/NAME_pool.yaml."""
    names = [f"experts/{name.removesuffix('_manifest')}_pool.yaml", f"foe/collect_{name}.yaml"]
    override = merged(small(read(names[0])), small(read(names[1])))
    files = [*names, write_yaml(Path("small/collect.yaml"), override)]
    return main(["collect", *(part for each in files for part in ("-c", each)), *more])


def prepare(factory: pytest.TempPathFactory, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Put trained experts, their outputs and image files into ``folder`` and go there."""
    made = _prepared(factory.getbasetemp())
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("data", "complete"), dirs_exist_ok=True)
    (folder / "data").mkdir()
    for part in (made / "data").iterdir():  # a thousand files that nothing writes to
        (folder / "data" / part.name).symlink_to(part)
    patch.chdir(folder)
    return folder


def refused(args: list[str]) -> str:
    """The message with which the command line refuses some arguments."""
    with pytest.raises(InputError) as caught:
        main(args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def shell(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run ``python`` or another program of its environment as a user does from a folder."""
    program = [] if command[0] == "python" else [str(Path(sys.executable).parent / command[0])]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
    words = [warm.python(), *program, *command[1:]]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


class _Parsed(Exception):
    """Carries a parsed configuration out of the command line before anything runs."""


def parse(args: list[str]) -> dict[str, Any]:
    """The configuration that the command line reads from some arguments; nothing is built or run."""

    def stop(config: Any) -> Any:
        raise _Parsed(config)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parsed) as caught:
        words = commands.join_words
        patch.setattr(
            commands,
            "_arguments",
            lambda parser, rest, **_: stop(parser.parse_args(words(rest, parser.list_options()))),
        )
        patch.setattr(training.FusionCLI, "_parse_ckpt_path", lambda self: stop(self.config[self.config.subcommand]))
        main(args)
    return caught.value.args[0].as_dict()


def build(args: list[str]) -> dict[str, Any]:
    """The arguments, with their objects, that the function of a command or recipe would be called with."""
    arguments = commands._arguments

    def stop(*args: Any, **options: Any) -> Any:
        raise _Parsed(arguments(*args, **options))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parsed) as caught:
        patch.setattr(commands, "_arguments", stop)
        main(args)
    return caught.value.args[0]


def look_up(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config
