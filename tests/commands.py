"""The command line on problems that take a second: what the tests of the shipped YAMLs share."""

import csv
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import language
import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from lightning_fusion.cli import commands, training
from lightning_fusion.cli.config import shipped_configs
from lightning_fusion.cli.main import main
from lightning_fusion.data.synthetic import synthetic_motion, synthetic_voices
from lightning_fusion.errors import InputError
from lightning_fusion.generation.pair_files import PairFiles

CONFIGS = shipped_configs()
HERE = Path(__file__).parent
EXPERTS = ("domain_0", "domain_1")  # on digits, and on texts
SENSORS = ("p1_phone", "p1_watch")

# The one shared override, by key, wherever in a file the key stands.
SMALL: dict[str, Any] = {
    "num_domains": 2,
    "classes_per_domain": 6,
    "batch_size": 16,
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


# recipe of the files that are not called after theirs
RECIPE_OF = {
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
    return yaml.safe_load((CONFIGS / name).read_text())


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


def images(folder: Path, tree: dict[str, list[str]], count: int, side: int = 8) -> None:
    """PNG files as ``folder/<first>/<class>/<n>.png``; each class has its own colour, with noise."""
    generator = np.random.default_rng(0)
    colours = {name: generator.integers(256, size=3) for name in sorted({c for names in tree.values() for c in names})}
    for first, names in tree.items():
        for name in names:
            (folder / first / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = generator.integers(-60, 60, size=(side, side, 3))
                pixels = np.clip(colours[name] + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / first / name / f"{number}.png")


def recordings(folder: Path, speakers: int, count: int, first: int = 0) -> None:
    """WAV files as ``folder/<speaker>/<n>.wav``; speakers are numbered from ``first``."""
    waveforms, who, _ = synthetic_voices(speakers, count, duration_s=0.5, sample_rate_hz=8000)
    for row, (speaker, samples) in enumerate(zip(who, waveforms, strict=True)):
        path = folder / f"s{first + speaker:02}" / f"{row % count}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, 8000)


def spoken_words(folder: Path, speakers: int = 3, count: int = 8) -> None:
    """WAV files as ``folder/<digit>_<speaker>_<n>.wav``: two digits."""
    waveforms, who, _ = synthetic_voices(speakers, 2 * count, duration_s=0.5, sample_rate_hz=8000)
    folder.mkdir(parents=True)
    for row, (speaker, samples) in enumerate(zip(who, waveforms, strict=True)):
        number = row % (2 * count)
        soundfile.write(folder / f"{number % 2}_s{speaker}_{number // 2}.wav", samples, 8000)


def motion_files(folder: Path, sessions: int = 5, people: int = 2) -> None:
    """CSV files as ``folder/s07/s07_<session>_<device>.csv``, at 104 Hz with timestamps in milliseconds."""
    motion = synthetic_motion(num_people=people, sessions=sessions, segment_s=4.0, sample_rate_hz=104)
    for samples, labels, person, device, session in zip(
        motion.samples, motion.activities, motion.person, motion.device, motion.session, strict=True
    ):
        name = f"s{7 + person:02}"
        lines = ["x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"]
        stamps = 1_657_540_547_119 + (np.arange(len(samples)) * 1000 / 104).astype(np.int64)
        for row, stamp, label in zip(samples.tolist(), stamps, labels, strict=True):
            lines.append(",".join([*(f"{value:.4f}" for value in row), str(stamp), f"ACTIVITY_{label}"]))
        path = folder / name / f"{name}_{session:02}_{('sp', 'sw')[device]}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def own_recordings(folder: Path, of: Path) -> None:
    """The same recordings as a user may have them: ``folder/<person>/<device>_<take>.csv``, with other names."""
    for path in of.rglob("*.csv"):
        person, take, device = path.stem.split("_")
        (folder / person).mkdir(parents=True, exist_ok=True)
        rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
        lines = [",".join([*row[:6], f"{int(row[6]) / 1000:.3f}", row[7]]) for row in rows]
        (folder / person / f"{device}_{take}.csv").write_text("\n".join(["ax,ay,az,gx,gy,gz,time,activity", *lines]))


def review_files(folder: Path, count: int = 100) -> None:
    """Files as ``folder/<domain>/{positive,negative}.review``."""
    for domain in ("books", "dvd", "kitchen"):
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for label in ("positive", "negative"):
            blocks = (f"<review_text>\n{label} {domain} {number}\n</review_text>\n" for number in range(count))
            (folder / domain / f"{label}.review").write_text("".join(blocks))


def own_texts(path: Path, reviews: Path) -> None:
    """The same texts as one CSV file, as recipes/foe_texts.yaml wants them."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "domain"])
        for each in sorted(reviews.rglob("*.review")):
            blocks = each.read_text().split("<review_text>\n")[1:]
            table.writerows([block.partition("\n")[0], each.stem, each.parent.name] for block in blocks)


def intent_files(folder: Path) -> None:
    """clinc150's files: two domains of two intents, their own splits, and queries out of scope."""
    folder.mkdir(parents=True)
    domains = {"travel": ["book flight", "lost luggage"], "home": ["play music", "order food"]}
    counts = {"train": 40, "val": 8, "test": 8}
    content: dict[str, Any] = {
        split: [[f"{split} {number} please {intent}", intent] for each in domains.values() for intent in each
                for number in range(count)]
        for split, count in counts.items()
    }  # fmt: skip
    content |= {
        f"oos_{split}": [[f"{split} {number} why is the sky blue", "oos"] for number in range(6)] for split in counts
    }
    (folder / "data_full.json").write_text(json.dumps(content))
    (folder / "domains.json").write_text(json.dumps(domains))


def stance_files(folder: Path) -> None:
    """One task of tweeteval, with two topics."""
    for topic in ("climate", "atheism"):
        (folder / topic).mkdir(parents=True)
        for split, count in {"train": 90, "val": 15, "test": 15}.items():
            rows = [
                (f"{split} {number} {topic} {('none', 'no', 'yes')[number % 3]}", str(number % 3))
                for number in range(count)
            ]
            for name, column in (("text", 0), ("labels", 1)):
                (folder / topic / f"{split}_{name}.txt").write_text("\n".join(row[column] for row in rows) + "\n")
    (folder / "mapping.txt").write_text("0\tnone\n1\tagainst\n2\tfavor")


def news(folder: Path, **arguments: Any) -> PairFiles:
    """The pairs of :func:`news_files`."""
    columns = ["class", "title", "description"]
    names: dict[str, dict[str | int, str]] = {"class": {"1": "World", "2": "Sports"}}
    return PairFiles(str(folder / "test.csv"), ["class"], columns=columns, value_names=names, **arguments)


def news_files(folder: Path, count: int = 40) -> None:
    """Two classes of news in the layout of AG News, whose descriptions hold the words of their titles."""
    generator = np.random.default_rng(0)
    words = {1: ["minister", "treaty", "border", "vote"], 2: ["match", "coach", "goal", "league"]}
    rows = []
    for number in range(2 * count):
        kind = 1 + number % 2
        title = " ".join(generator.choice(words[kind], 3))
        rows.append(f'"{kind}","{title}","Report {number} - {title} on {generator.choice(words[kind])} today."')
    folder.mkdir(parents=True)
    (folder / "test.csv").write_text("\n".join(rows) + "\n")


def score_table(path: Path, rows: int = 60) -> None:
    """Texts' scores by three scorers and two people's scores, a text per row, three rows per article."""
    generator = np.random.default_rng(0)
    lines = ["article,fluency_scorer,overlap_scorer,length_scorer,fluency,relevance"]
    for row in range(rows):
        scores = generator.normal(size=3)
        people = scores[:2] + 0.5 * generator.normal(size=2)
        lines.append(",".join([f"a{row // 3}", *(f"{value:.4f}" for value in [*scores, *people])]))
    path.write_text("\n".join(lines) + "\n")


def feature_table(path: Path, people: tuple[int, ...] = (17, 33), rows: int = 60) -> None:
    """A file as WISDM's: number, person, 43 features of which some are missing, activity; no line of names."""
    generator = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    lines = []
    for number in range(len(people) * rows):
        label = number % 3
        values = [f"{value:.2f}" for value in generator.normal(label, 1, 43)]
        values[number % 5 + 36] = "?" if number % 7 == 0 else values[number % 5 + 36]
        lines.append(
            ",".join([str(number), str(people[number // rows]), *values, ["Jogging", "Sitting", "Walking"][label]])
        )
    path.write_text("\n".join(lines) + "\n")


@cache
def _prepared(base: Path) -> Path:
    """A folder in which a user has trained a speaker model and two experts on digits, and asked these; made once."""
    folder = base / "prepared"
    images(folder / "data/images", {"studio": ["cat", "dog"], "street": ["cat", "dog", "owl"]}, 30)
    images(folder / "data/styles", {name: ["cat", "dog"] for name in ("photo", "sketch", "paint")}, 30)
    fine = ["beaver", "dolphin", "flatfish", "ray"]
    recordings(folder / "data/speakers", speakers=24, count=8)
    motion_files(folder / "data/spsw_har")
    own_recordings(folder / "data/recordings", folder / "data/spsw_har")
    review_files(folder / "data/blitzer")
    own_texts(folder / "data/texts.csv", folder / "data/blitzer")
    intent_files(folder / "data/clinc150")
    stance_files(folder / "data/tweeteval/stance")
    feature_table(folder / "data/wisdm/wisdm_transformed_with_user.csv", (17, 33, 41))
    news_files(folder / "data/ag_news")
    score_table(folder / "data/evaluation.csv")
    language.choice_files(folder / "data/mmlu")
    for name, kind in (("first", "gpt2"), ("second", "t5")):
        language.save_speaker(folder / "models" / name, kind)
    recordings(folder / "data/librispeech/train-clean-100", speakers=12, count=1)
    recordings(folder / "data/voxceleb2", speakers=12, count=2)
    spoken_words(folder / "data/fsdd/recordings")
    for name in ("librispeech/test-other", "voxceleb1"):
        recordings(folder / "data" / name, speakers=4, count=2, first=20)
    trials = ["1 s20/0.wav s20/1.wav", "1 s21/0.wav s21/1.wav", "0 s20/0.wav s21/0.wav", "0 s22/1.wav s23/1.wav"]
    (folder / "data/voxceleb1/veri_test2.txt").write_text("\n".join(trials))
    for name in ("cifar100", "imagenet100"):
        images(folder / "data" / name, {"train": fine, "test": fine}, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(2):
            train_expert(number)
        for name in SENSORS:
            train_expert(name, of="sensor_synthetic")
        for name in EXPERTS:
            train_expert(name, of="text_synthetic")
        speaker = write_yaml(Path("small/speaker.yaml"), small(read("experts/speaker.yaml")) | {"trainer": TWO_BATCHES})
        main(["fit", "-c", "experts/speaker.yaml", "-c", speaker])
        collect_outputs()
        collect_outputs(name="text_synthetic")
    return folder


def train_expert(domain: int | str, *more: str, of: str = "digits") -> Any:
    """Train one expert of a file in configs/experts for two batches."""
    override = small(read(f"experts/{of}.yaml")) | {"trainer": TWO_BATCHES}
    file = write_yaml(Path("small/expert.yaml"), override)
    return main(["fit", "-c", f"experts/{of}.yaml", "-c", file, f"--data.init_args.domain={domain}", *more])


def collect_outputs(*more: str, name: str = "digits") -> Any:
    """Ask the two experts, as configs/foe/collect_NAME.yaml says with the pool of configs/experts/NAME_pool.yaml."""
    names = [f"experts/{name}_pool.yaml", f"foe/collect_{name}.yaml"]
    override = merged(small(read(names[0])), small(read(names[1])))
    files = [*names, write_yaml(Path("small/collect.yaml"), override)]
    return main(["collect", *(part for each in files for part in ("-c", each)), *more])


def prepare(factory: pytest.TempPathFactory, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Put trained experts, their outputs and image files into ``folder`` and go there."""
    shutil.copytree(_prepared(factory.getbasetemp()), folder, dirs_exist_ok=True)
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
    """Run a program of this Python's environment as a user does from a folder."""
    program = str(Path(sys.executable).parent / command[0])
    variables = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
    words = [program, *command[1:]]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


class _Parsed(Exception):
    """Carries a parsed configuration out of the command line before anything runs."""


def parse(args: list[str]) -> dict[str, Any]:
    """The configuration that the command line reads from some arguments; nothing is built or run."""

    def stop(config: Any) -> Any:
        raise _Parsed(config)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parsed) as caught:
        patch.setattr(commands, "_arguments", lambda parser, rest, **_: stop(parser.parse_args(rest)))
        patch.setattr(training.FusionCLI, "_parse_ckpt_path", lambda self: stop(self.config[self.config.subcommand]))
        main(args)
    return caught.value.args[0].as_dict()


def look_up(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config
