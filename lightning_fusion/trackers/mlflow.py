"""MLflow."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lightning_fusion.extras import require
from lightning_fusion.hyperparameters import flat
from lightning_fusion.trackers.base import REPORT, Cell, Stage, Tracker, as_key, folder_in, in_first_process, stage_name

_RUN = "lightning_fusion.run"
"""Tag with the name of a run of a recipe."""
_LONGEST = 500
"""Largest number of characters of a value that every server stores."""


class MLFlowTracker(Tracker):
    """A run of MLflow; the stages of a run of a recipe are nested in one run, which has the results.

    Without an address, the runs are in ``mlflow.db`` in the recipe's folder for logs, and their files in ``mlflow``
    beside it: MLflow 3 rejects plain folders, the default of the logger.
    """

    shows_figures = True
    names_one_run = ("run_id",)

    @classmethod
    def arguments(cls, kind: type[Logger], given: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """Return the arguments of the logger of a stage; the run around all stages is created."""
        found = {"experiment_name": "lightning_logs"} | {key: value for key, value in given.items() if value}
        if not (found.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")):
            own = given.get("save_dir")
            folder = Path(folder_in(stage.folder, None if own == "./mlruns" else own)).resolve()
            found = {"artifact_location": (folder / "mlflow").as_uri()} | found
            found["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
        found.setdefault("tracking_uri", os.environ.get("MLFLOW_TRACKING_URI"))
        if found["experiment_name"] == "lightning_logs":
            found["experiment_name"] = "lightning_fusion"
        own = found.pop("run_name", None)
        tags = found.get("tags", {}) | {_RUN: stage.run, "recipe": stage.recipe, "kind": stage.kind}
        if in_first_process():
            around = _run_around(found, own or stage.run, tags | {"kind": "recipe"})
            if stage.name == REPORT:
                return found | {"run_id": around}
            tags["mlflow.parentRunId"] = around
        return found | {"run_name": stage_name(own, None, stage), "tags": tags}

    def log_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Record the settings that the run does not have: MLflow rejects other values of the same name."""
        from mlflow.entities import Param

        run, client = self.logger.run_id, self.logger.experiment
        known = client.get_run(run).data.params
        named = {re.sub(r"[^\w\-. /]", "_", key): str(value)[:_LONGEST] for key, value in flat(dict(values)).items()}
        new = [Param(key, value) for key, value in named.items() if key not in known]
        for first in range(0, len(new), 100):  # the most in one request
            client.log_batch(run, params=new[first : first + 100])

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Record a table as a JSON file that the interface of MLflow shows as one; an earlier one is replaced."""
        client, run, path = self.logger.experiment, self.logger.run_id, f"tables/{as_key(name)}.json"
        client.log_text(run, json.dumps({"columns": list(columns), "data": [list(row) for row in rows]}), path)
        shown = json.loads(client.get_run(run).data.tags.get("mlflow.loggedArtifacts", "[]"))
        if (entry := {"path": path, "type": "table"}) not in shown:
            client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([*shown, entry]))

    def log_figure(self, name: str, figure: Figure, step: int | None = None) -> None:
        """Record a PNG file, with the step of the training in its name."""
        key = as_key(name) + ("" if step is None else f"-step_{step:06d}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{key}.png"
            figure.savefig(path)
            self.log_file(name, path, "figures")

    def log_file(self, name: str, path: Path, kind: str) -> None:
        """Record a file or a folder in the folder of its kind."""
        client, run = self.logger.experiment, self.logger.run_id
        if path.is_dir():
            client.log_artifacts(run, str(path), f"{kind}/{as_key(name)}")
        else:
            client.log_artifact(run, str(path), kind)


def _run_around(logger: Mapping[str, Any], name: str, tags: Mapping[str, str]) -> str:
    """Return the id of the run that contains the stages of a run of a recipe."""
    client = require("mlflow.tracking", "mlflow").MlflowClient(logger["tracking_uri"])
    title = logger["experiment_name"]
    experiment = client.get_experiment_by_name(title)
    place: str = (
        client.create_experiment(title, logger.get("artifact_location"))
        if experiment is None
        else experiment.experiment_id
    )
    known = client.search_runs([place], f"tags.`{_RUN}` = '{tags[_RUN]}' and tags.kind = 'recipe'", max_results=1)
    run = known[0] if known else client.create_run(place, run_name=name, tags=dict(tags))
    found: str = run.info.run_id
    return found
