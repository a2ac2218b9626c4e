"""Commands other than those of a training run, as typed functions with the options as arguments."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from jsonargparse import SUPPRESS
from lightning import LightningDataModule, Trainer

from lightning_fusion import export as exporting
from lightning_fusion.cli.checks import warn_untrained
from lightning_fusion.cli.help import COMMANDS, OF_RUN, recipes
from lightning_fusion.cli.imports import import_modules
from lightning_fusion.cli.parser import FusionArgumentParser, join_words, parse
from lightning_fusion.data.base import SPLITS
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.experts import diagnosis
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs import collect as collecting
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.files import write_text
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.recipes import serving
from lightning_fusion.recipes.notes import noting
from lightning_fusion.recipes.pool_modules import NoProgramError
from lightning_fusion.recipes.runner import quiet_lightning
from lightning_fusion.recipes.trainers import DEFAULTS, OWNED, check_processes


def collect(
    experts: dict[str, Expert],
    data: LightningDataModule,
    output: str,
    splits: list[str] | None = None,
    keep_representations: bool = False,
    trainer: Trainer | None = None,
    overwrite: bool = False,
    on_failure: Literal["raise", "skip"] = "raise",
    retries: int = 0,
    retry_missing: bool = False,
) -> ExpertOutputs:
    """Query a pool of experts on a data set once and store their outputs; an interrupted run is resumed.

    Args:
        experts: Experts by name.
        data: Data module.
        output: Folder of the store.
        splits: Some of train, val and test; all three where null.
        keep_representations: Store each expert's representations as well.
        trainer: Arguments of the Trainer that runs the experts.
        overwrite: Replace another store.
        on_failure: Where an expert fails on a sample: raise, or skip (the answer is missing in the store).
        retries: Further attempts on samples without a valid answer.
        retry_missing: Query experts again on samples whose answer is missing.

    Returns:
        The opened store.
    """
    outputs = collecting.collect(
        ExpertPool(experts),
        data,
        output,
        list(SPLITS) if splits is None else splits,
        keep_representations,
        trainer,
        overwrite,
        on_failure,
        retries,
        retry_missing,
    )
    print(outputs)
    return outputs


def diagnose(
    store: str, split: str = "train", unseen: str | None = "test", output: str | None = None
) -> diagnosis.Diagnosis:
    """Estimate the potential gain of fusion before a fuser is trained.

    Args:
        store: Folder written by 'collect'.
        split: Split that the fuser would be trained on.
        unseen: Split that no expert was trained on.
        output: Folder for diagnosis.json and diagnosis.png.

    Returns:
        The diagnosis.
    """
    found = diagnosis.diagnose(ExpertOutputs.open(store), split, unseen)
    found.print()
    if output:
        found.save(output)
        print(f"wrote diagnosis.json and diagnosis.png to {output}")
    return found


def export(
    checkpoint: str,
    output: str,
    experts: dict[str, Expert] | None = None,
    input_shape: list[int] | None = None,
    max_tokens: int | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    fuser: type[FoEFuserModule] = FoEFuserModule,
) -> dict[str, Any]:
    """Write a model as one torch.export program or ONNX file, with a manifest and a parity check.

    Args:
        checkpoint: Checkpoint of an expert, a complementary expert, a student, a fuser or a policy.
        output: Folder of the exported program.
        experts: Experts by name, for a fuser or policy; with a complementary expert, the frozen ones.
        input_shape: Shape of one sample, such as [3, 32, 32]; the one that the experts record where null.
        max_tokens: For texts, instead: number of tokens of the longest text.
        onnx: Write an ONNX file as well.
        overwrite: Replace an earlier export.
        fuser: Class of the fuser, of a checkpoint of a subclass.

    Returns:
        The manifest.
    """
    how = input_shape, max_tokens, onnx, overwrite
    return _exported(output, exporting.export_checkpoint(checkpoint, output, experts, *how, fuser))


def export_run(
    run: str,
    output: str,
    method: str | None = None,
    input_shape: list[int] | None = None,
    max_tokens: int | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    seed: int | None = None,
    target: str | None = None,
    imports: list[str] | None = None,
) -> dict[str, Any]:
    """Write the method that a finished run of a recipe advises as one torch.export program or ONNX file.

    Args:
        run: Folder of the run.
        output: Folder of the exported program.
        method: Row of the report; the advised one where null.
        input_shape: Shape of one sample, such as [3, 32, 32]; the one that the experts record where null.
        max_tokens: For texts, instead: number of tokens of the longest text.
        onnx: Write an ONNX file as well.
        overwrite: Replace an earlier export.
        seed: Seed whose models are exported; the one with the best validation result of the method where null.
        target: Target domain whose models are exported, for a run of hat with several targets.
        imports: Modules to import, which define classes of your own that the run names.

    Returns:
        The manifest.
    """
    import_modules(imports)
    finished, chosen, number, module = serving.load_run(run, method, seed, target)
    print(f"{chosen} (models of seed {number})")
    try:
        manifest = exporting.export(module, output, input_shape, max_tokens, onnx, overwrite, run)
    except NoProgramError as error:
        others = shorten([f"--method {name!r}" for name in finished.methods if name != chosen], 12)
        raise InputError(f"{error}; the other rows, the simplest first: {others}") from error
    return _exported(output, manifest)


def _exported(output: str, manifest: dict[str, Any]) -> dict[str, Any]:
    print(f"wrote {', '.join(manifest['files'])} to {output}; largest difference {manifest['parity']:.1e}")
    return manifest


def predict(
    run: str,
    input: str,
    method: str | None = None,
    output: str = "predictions.csv",
    seed: int | None = None,
    target: str | None = None,
    trials: str | None = None,
    data: dict[str, Any] | None = None,
    imports: list[str] | None = None,
    trainer: Trainer | None = None,
) -> Path:
    """Predict new files with a finished run of a recipe; its advice names the method that answers.

    Args:
        run: Folder of the run; the data that it was trained on need not exist.
        input: File or folder with new samples, without labels.
        method: Row of the report that answers; the advised one where null.
        output: CSV file with a row for each sample.
        seed: Seed whose models answer; the one with the best validation result of the method where null.
        target: Target domain whose models answer, for a run of hat with several targets.
        trials: List of pairs of new recordings to score, for a run of verification; 'enrol test' in each line.
        data: Arguments of the run's data in which the new files differ, such as {text: comment} or {image_size: 32}.
        imports: Modules to import, which define classes of your own that the run names.
        trainer: Arguments of the Trainer that predicts.

    Returns:
        Path of the CSV file.
    """
    import_modules(imports)
    return serving.predict(run, input, method, output, seed, target, trials, trainer, data)


def run(command: str, args: list[str]) -> Any:
    """Run a command.

    Args:
        command: One of :data:`~lightning_fusion.cli.help.COMMANDS`.
        args: Its options; before those of ``recipe``, the name or import path of a recipe.

    Returns:
        The result of the command's function.
    """
    if command == "recipe":
        return _recipe(args[0], args[1:])
    function = resolve_name(COMMANDS[command])
    parser = _parser(command, function)
    if "trainer" in signature(function).parameters:
        parser.add_class_arguments(Trainer, "trainer", instantiate=True)
        parser.set_defaults({"trainer.logger": False, "trainer.enable_checkpointing": False})
    with quiet_lightning() if command.endswith(OF_RUN) else nullcontext():  # what it says of each new Trainer
        given = _arguments(parser, args)
    config = given.pop("config")
    if isinstance(experts := given.get("experts"), dict):
        warn_untrained(experts, config.as_dict()["experts"])
    if isinstance(trainer := given.get("trainer"), Trainer):
        check_processes(trainer)
    return function(**given)


def _recipe(name: str, args: list[str]) -> Any:
    """Run a recipe with its typed arguments as options, and record its configuration."""
    function = _function(name)
    parser = _parser(f"recipe {name}", function)
    described = ["trainer"] if "trainer" in signature(function).parameters else []
    if described:
        _add_trainer(parser)
    with noting():  # of the data, which are read before the run begins
        # the classes of a Trainer are instantiated for every stage
        arguments = _arguments(parser, args, described=described)
        config = arguments.pop("config")
        report = function(**arguments)
    config.pop("config", None)
    if collecting.first_process():
        write_text(Path(arguments["output"]) / "config.yaml", parser.dump(config, skip_none=False))
    return report


def _function(name: str) -> Callable[..., Any]:
    """Return the recipe of a name or an import path."""
    known = recipes()
    if name not in known and "." not in name:
        raise InputError(
            f"recipe: found {name!r}; expected one of {', '.join(known)}, or the import path of a function"
            f"{suggestion(name, known)}"
        )
    try:
        function: Callable[..., Any] = resolve_name(known.get(name, name))
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"recipe: {name} cannot be imported ({error}); expected the import path of a function"
        ) from error
    if not callable(function):
        raise InputError(f"recipe: {name} is a {type(function).__name__}; expected a function")
    return function


def _parser(command: str, function: Callable[..., Any]) -> FusionArgumentParser:
    """Create a parser of a function's arguments, except those of a Trainer."""
    parser = FusionArgumentParser(
        prog=f"lightning-fusion {command.removesuffix(OF_RUN)}",
        description=(function.__doc__ or "").partition("\n")[0],
        parser_mode="omegaconf+",
        dump_header=None,
    )
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of the options below.")
    parser.add_function_arguments(function, skip={"trainer"}, fail_untyped=False)
    return parser


def _add_trainer(parser: FusionArgumentParser) -> None:
    """Add the ``trainer:`` block of a recipe: keys of the Trainer; the recipe rejects those that its stages set."""
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, fail_untyped=False, skip=set(OWNED))
    parser.set_defaults({f"trainer.{key}": value for key, value in DEFAULTS.items()})
    for key in OWNED:
        parser.add_argument(f"--trainer.{key}", type=Any, default=None, help=SUPPRESS)


def _arguments(parser: FusionArgumentParser, args: list[str], described: Sequence[str] = ()) -> dict[str, Any]:
    """Parse and instantiate the arguments, except the classes of the keys in ``described``."""
    config = parse(parser, join_words(args, parser.list_options()))
    kept = {key: config.pop(key) for key in described}
    given = parser.instantiate_classes(config).as_dict() | {key: value.as_dict() for key, value in kept.items()}
    for key, value in kept.items():
        config[key] = value
    result: dict[str, Any] = given | {"config": config}
    return result
