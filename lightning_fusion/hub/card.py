"""Model cards, written from the results of a run."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.extras import require
from lightning_fusion.markdown import markdown_table, one_line

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_TASKS = {
    ".image.": ("image-classification", "image classification"),
    ".audio.": ("audio-classification", "audio classification"),
    ".text.": ("text-classification", "text classification"),
    ".sensor.": ("tabular-classification", "classification of sensor series"),
}
_OTHER_TASK = "tabular-classification", "classification"
_NAMES = {
    "expert": ("Expert", "a classifier"),
    "fuser": (
        "FoEFuserModule",
        "a fuser of the outputs of several classifiers (Fusion of Experts, Wang et al., ICLR 2024)",
    ),
    "policy": ("FrugalFoE", "a query policy for several classifiers (FrugalFoE, Wang et al., ICLR 2024)"),
    "policy module": ("FrugalFoEModule", "a query policy for several classifiers (FrugalFoE, Wang et al., ICLR 2024)"),
}


def model_card(
    config: Mapping[str, Any], run: str | None, method: str | None, license: str | None
) -> "Callable[[str], ModelCard]":
    """Return the function that makes the model card for the name of a repository.

    Args:
        config: Configuration of the repository.
        run: Folder of the run that trained the model; ``None`` for a card without results.
        method: Row of its report that the model is. ``None`` (default) means the one whose gains are reported.
        license: Identifier of the license. ``None`` (default) is ``unknown``.

    Raises:
        InputError: If the run has no readable results, or no such method.
    """
    if run is None:
        if method is not None:
            raise InputError(
                f"method: found {method!r} without a run; give run, the folder of the run that has this row"
            )
        return partial(_card, config, None, "", license)
    path = Path(run, "results.json")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in results["summary"] if not row["against"]]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        main = next((row["method"] for row in results["summary"] if row["against"]), methods[0])
        results["recipe"], results["data"].items(), results["notes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise InputError(
            f"run: {path} cannot be read as the results of a recipe ({type(error).__name__}); give the --output of a "
            "finished recipe"
        ) from error
    if method is not None and method not in methods:
        raise InputError(
            f"method: found {method!r}; the run has {shorten(map(repr, methods), 40)}{suggestion(method, methods)}"
        )
    trained = (results.get("serving") or {}).get("classes")
    if isinstance(trained, list) and (own := _classes(config)) and set(own) - set(trained):
        raise InputError(
            f"run: {run} has the classes {shorten(trained, 20)}, the model {shorten(own, 20)}; give its own run"
        )
    return partial(_card, config, results, method or main, license)


def _card(
    config: Mapping[str, Any], results: Mapping[str, Any] | None, method: str, license: str | None, repo_id: str
) -> "ModelCard":
    hub = require("huggingface_hub", "hub")
    task, described = _task(results)
    evaluations = [
        hub.EvalResult(
            task_type=task,
            task_name=described,
            dataset_type=_data_name(results),
            dataset_name=_data_name(results),
            dataset_split="test",
            metric_type=row["metric"].replace(" ", "_"),
            metric_name=f"{row['metric']}, mean over seeds",
            metric_value=round(row["mean"], 6),
        )
        for row in (results or {}).get("summary", ())
        if row["method"] == method and not row["against"]
    ]
    data = hub.ModelCardData(
        license=license or "unknown",
        library_name="lightning_fusion",
        pipeline_tag=task if results else None,
        tags=["lightning_fusion", config["kind"].replace(" ", "-"), *([results["recipe"]] if results else [])],
        model_name=repo_id.rpartition("/")[2] or repo_id,
        eval_results=evaluations or None,
    )
    lines = [*_about(config, repo_id, license), *_results(results, method), *_limits(config, results)]
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", "\n".join(lines))  # names are free text, and no HTML
    card: ModelCard = hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")
    return card


def _about(config: Mapping[str, Any], repo_id: str, license: str | None) -> list[str]:
    kind, what = _NAMES[config["kind"]]
    classes = _classes(config)
    lines = [f"# {repo_id.rpartition('/')[2]}", "", f"This is {what}, written by lightning_fusion.", ""]
    if classes:
        lines += [one_line(f"- Classes, in the order of the outputs: {shorten(classes, 200)}")]
    if names := list(
        config.get("experts") or config.get("metadata") or (config.get("policy") or {}).get("names") or ()
    ):
        brings = "in this repository" if config.get("experts") else "not in this repository; pass them as `experts`"
        lines += [one_line(f"- Experts: {shorten(names, 200)} ({brings})")]
    lines += [one_line(f"- License: {license or 'not given'}"), "", "## Use", "", "```python"]
    lines += [f"from lightning_fusion import {kind}", "", f'model = {kind}.from_pretrained("{repo_id}")', "```", ""]
    lines += ["`pip install 'lightning-fusion[hub]'`. The repository contains no code, and none is run.", ""]
    if config["kind"] == "expert" and not config["card"].get("network"):
        lines += ["The class of its network is not recorded: pass `network`, a module or a factory of one.", ""]
    return lines


def _results(results: Mapping[str, Any] | None, method: str) -> list[str]:
    if results is None:
        return ["## Results", "", "No results were given.", ""]
    lines = ["## Data", "", *(one_line(f"- {name}: {value}") for name, value in results["data"].items()), ""]
    summary = results["summary"]
    metrics = list(dict.fromkeys(row["metric"] for row in summary))
    gains = {(row["against"], row["metric"]): row for row in summary if row["against"]}
    main = next((row["method"] for row in summary if row["against"]), method)
    table = []
    for name in dict.fromkeys(row["method"] for row in summary):
        cells = [f"**{name}** (this model)" if name == method else name]
        for metric in metrics:
            row = next((r for r in summary if (r["method"], r["metric"], r["against"]) == (name, metric, None)), None)
            cells.append("" if row is None else _number(row["mean"], row["std"]))
        table.append([*cells, _gain(gains.get((name, metrics[0])))])
    seeds = len({row["seed"] for row in results.get("rows", ())})
    lines += [
        "## Results",
        "",
        f"On test samples, mean ± standard deviation over {seeds} seed(s). Gains of {main} are paired",
    ]
    lines[-1] += " by seed, in points, with a 95 % interval (Student's t); a single seed has no interval."
    return [*lines, "", *markdown_table(["method", *metrics, f"gain of {main}"], table), ""]


def _limits(config: Mapping[str, Any], results: Mapping[str, Any] | None) -> list[str]:
    lines = ["## Limits", "", "- It answers for the classes above only; a sample of another class gets one of them."]
    if results is not None:
        lines += [
            "- The results are those of the run on its own test data, over all of its seeds; this is one of its models."
        ]
        lines += [one_line(f"- {note}") for note in results["notes"]]
    if "policy" in config:
        lines += ["- The repository contains the outputs of the experts on the calibration samples, and their labels."]
    if results is not None and results.get("versions"):
        found = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
        lines += ["", f"Versions: {found}."]
    return lines


def _task(results: Mapping[str, Any] | None) -> tuple[str, str]:
    data = ((results or {}).get("config") or {}).get("data") or {}
    path = str(data.get("class_path") if isinstance(data, Mapping) else data)
    return next((task for part, task in _TASKS.items() if part in path), _OTHER_TASK)


def _data_name(results: Mapping[str, Any] | None) -> str:
    data = ((results or {}).get("config") or {}).get("data") or {}
    path = str(data.get("class_path")) if isinstance(data, Mapping) else "unknown"
    return path.rpartition(".")[2].removesuffix("DataModule") or "unknown"


def _classes(config: Mapping[str, Any]) -> list[str]:
    parts = (config.get("arguments") or {}), (config.get("policy") or {})
    return next((part["classes"] for part in parts if part.get("classes")), [])


def _number(mean: float, std: float | None) -> str:
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")


def _gain(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    bounds = "" if row["gain_low"] is None else f" [{100 * row['gain_low']:+.1f}, {100 * row['gain_high']:+.1f}]"
    return f"{100 * row['gain']:+.1f}{bounds}"
