"""What trackers have written, read without them."""

import csv
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def records(file: Path) -> list[Record]:
    """The records of a .wandb file: protobuf messages in the framing of LevelDB's log."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"  # and three bytes of magic number and version
    place, parts, found = 7, b"", []
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block that is too short for a header
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + HEADER])
        parts += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # whole, or last part
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def config_and_summary(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run's file says about its configuration and its last metrics."""
    (file,) = folder.glob("*.wandb")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for record in records(file):
        for update in [*record.run.config.update, *record.config.update]:
            config[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        for update in record.summary.update:
            summary[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        for item in record.history.item:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return config, summary


def wandb_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """What each offline run in a folder holds, by its name: group, kind, tags, config, summary, artifacts, files."""
    runs: dict[str, dict[str, Any]] = {}
    for each in sorted(folder.glob("offline-run-*")):
        config, summary = config_and_summary(each)
        found = list(records(next(each.glob("*.wandb"))))
        (run,) = [record.run for record in found if record.HasField("run")][:1]
        artifacts = [record.artifact for record in found if record.HasField("artifact")]
        assert run.display_name not in runs, "no stage has two runs"
        runs[run.display_name] = {
            "group": run.run_group,
            "kind": run.job_type,
            "tags": list(run.tags),
            "config": config,
            "summary": summary,
            "artifacts": {item.type: [each.path for each in item.manifest.contents] for item in artifacts},
            "files": sorted(str(path.relative_to(each / "files")) for path in (each / "files").rglob("media/*/*")),
            "folder": each / "files",
        }
    return runs


def mlflow_runs(database: Path) -> dict[str, dict[str, Any]]:
    """What each run in a database holds, by its name: parent, tags, params, metrics, files."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{database.resolve()}")

    def files(run: str, folder: str | None = None) -> list[str]:
        found = client.list_artifacts(run, folder)
        return [path for item in found for path in (files(run, item.path) if item.is_dir else [item.path])]

    runs = client.search_runs([client.get_experiment_by_name("lightning_fusion").experiment_id])
    ids = {run.info.run_id: run.info.run_name for run in runs}
    return {
        run.info.run_name: {
            "in": ids.get(run.data.tags.get("mlflow.parentRunId")),
            "status": run.info.status,
            "tags": run.data.tags,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "files": files(run.info.run_id),
        }
        for run in runs
    }


def tensorboard_tags(folder: Path) -> dict[str, list[str]]:
    """The names of scalars, images and texts in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(folder)).Reload().Tags()
    return {kind: tags[kind] for kind in ("scalars", "images", "tensors")}


def comet_experiments(folder: Path) -> dict[str, dict[str, Any]]:
    """What each archive in a folder holds, by the name of its experiment: tags, metrics, settings, files."""
    found = {}
    for path in folder.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("messages.json").decode().splitlines()
            tags = json.loads(archive.read("experiment.json"))["tags"]
        messages = [json.loads(line) for line in lines]
        of_type = {message["type"]: [] for message in messages}
        for message in messages:
            of_type[message["type"]].append(message["payload"])
        (name,) = [item["value"] for item in of_type["log_other"] if item["key"] == "Name"]
        uploads = [item.get("additional_params") or {} for item in of_type["file_upload"]]
        found[name] = {
            "tags": tags,
            "metrics": {item["metric"]["metricName"] for item in of_type["metric_msg"]},
            "files": [params.get("fileName") or params.get("figName") or params.get("name") for params in uploads],
        }
    return found


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(path.read_text().splitlines()))
