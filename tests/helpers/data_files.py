"""Small files in the layouts that users and public data sets have."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from lightning_fusion.data.synthetic import synthetic_motion, synthetic_voices
from lightning_fusion.generation.pair_files import PairFiles


def images(folder: Path, tree: dict[str, list[str]], count: int, side: int = 8) -> None:
    """PNG files as ``folder/<first>/<class>/<n>.png``; each class has its own color, with noise."""
    generator = np.random.default_rng(0)
    colors = {name: generator.integers(256, size=3) for name in sorted({c for names in tree.values() for c in names})}
    for first, names in tree.items():
        for name in names:
            (folder / first / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = generator.integers(-60, 60, size=(side, side, 3))
                pixels = np.clip(colors[name] + noise, 0, 255).astype(np.uint8)
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


def word_table(path: Path, recordings: Path) -> None:
    """The same recordings as a CSV file with a label and a speaker in each row."""
    rows = [(file, *file.stem.split("_")) for file in sorted(recordings.glob("*.wav"))]
    lines = [f"{file.relative_to(path.parent)},{label},{speaker}" for file, label, speaker, _ in rows]
    path.write_text("\n".join(["path,label,speaker", *lines]))


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
