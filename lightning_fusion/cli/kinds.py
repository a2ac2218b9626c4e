"""Which command a configuration file is for."""

from typing import Any

from lightning_fusion.cli.help import COMMANDS, TRAINING, find_function, recipes
from lightning_fusion.cli.pools import DATA_COMMANDS
from lightning_fusion.errors import InputError, suggestion

_TRAINING_KEYS = {
    *("seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only", "verbose", "return_predictions"),
    "overwrite",
}
_SWEEP_KEYS = {"method", "parameters"}


def has_sections(content: dict[str, Any]) -> bool:
    """Return whether a file has sections by training command, for a place before the command."""
    return bool(content) and set(content) <= set(TRAINING)


def check_kind(command: str, path: str, content: dict[str, Any]) -> None:
    """Check that a command takes the keys of a configuration file.

    Args:
        command: ``fit``, ..., or ``recipe NAME``.
        path: Path of the file.
        content: Its content.

    Raises:
        InputError: If it has another key; the message says which command the file is for, or names the nearest key.
    """
    takes = _keys(command)
    keys = {str(key).partition(".")[0] for key in content} - {"config"}
    if takes is None or keys <= takes:
        return
    wrong = next(key for key in map(str, content) if key.partition(".")[0] not in takes | {"config"})
    if has_sections(content) and command in TRAINING:
        kind = f"; it has sections by command: give it before the command, as in --config {path} {command}"
    elif keys == {"experts"} and command in DATA_COMMANDS:
        kind = ": it names sources, which fit takes beside a configuration; leave it out"
    elif keys >= _SWEEP_KEYS:
        kind = "; it is a sweep of Weights & Biases: lightning-fusion sweep FILE, or wandb sweep FILE"
    else:
        others = [each for each in _commands() if keys <= (_keys(each) or set())]
        named = [each for each in others if path.rpartition("/")[2].startswith(f"{each.removeprefix('recipe ')}_")]
        plain = [each for each in others if not each.startswith("recipe")]
        fits = (named or plain or others)[:4]
        kind = f"; it is a file for {' or '.join(fits)}" if fits else suggestion(wrong, takes)
    raise InputError(f"config: {path} has the key {wrong}, which {command} does not take{kind}")


def _commands() -> list[str]:
    return ["fit", *(name for name, path in COMMANDS.items() if path), *(f"recipe {name}" for name in recipes())]


def _keys(command: str) -> set[str] | None:
    """Return the arguments of a command; None where its function has no fixed ones, or is not found."""
    if command in TRAINING:
        return _TRAINING_KEYS
    name = command.removeprefix("recipe ")
    function = find_function(recipes().get(name, name) if command.startswith("recipe ") else COMMANDS[command])
    if function is None or function.args.kwarg:
        return None
    return {each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
