"""Errors of the parser and of other libraries as one line, and errors of the user's own code as they are."""

import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from traceback import walk_tb

from lightning_fusion.cli.help import classes
from lightning_fusion.errors import InputError, chain, is_code_of_user, suggestion

_NOISE = re.compile(
    r"(Parser key|Problem with given class_path|Does not validate|Subtypes:|Errors:|Given value|tip:|usage:|"
    r"Expected a <class 'NoneType'>)"
)
_EXPECTED = re.compile(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|([\w.]+\[.*\]|collections\.\S+))$")
_REJECTED = re.compile(r"Option '(\w+)' is not accepted.*Given value: \{'class_path': '([\w.]+)'", re.DOTALL)
_RAW_DATA = (
    ": it reads no files. New samples need the data module that the experts were trained with (of images, audio, "
    "sensor series or texts) as data.class_path, and model.init_args.experts, which answer for them"
)
_NO_CLASS = (
    re.compile(r"Expected a path but (\S+) either not accessible or invalid"),
    re.compile(r"Expected a dot import path string: (\S+)"),
    re.compile(r"module '([\w.]+)' has no attribute '(\w+)'"),
)


def error_of_user(error: BaseException | None) -> BaseException | None:
    """Return the outermost exception of a chain that passed through the user's own code, if any.

    An InputError is none: its message names the input. Code of the user is everything but this library, Python's own
    modules and installed packages.
    """
    for each in chain(error):
        frame = each.__traceback__
        while frame is not None and not isinstance(each, InputError):
            if is_code_of_user(frame.tb_frame.f_code.co_filename):
                return each
            frame = frame.tb_next
    return None


def error_of_process(error: BaseException) -> InputError | None:
    """Return the InputError that ended a process which the strategy started (ddp_spawn); ``None`` for other errors.

    Such an error arrives as the text of its traceback.

    Args:
        error: What torch raised in the first process.
    """
    if type(error).__name__ != "ProcessRaisedException":
        return None
    last = str(error).rpartition("Traceback (most recent call last):")[2]
    found = re.search(r"^lightning_fusion\.[\w.]+Error: (.+)", last, re.MULTILINE | re.DOTALL)
    return InputError(found[1].strip()) if found else None


def error_of_trainer(error: BaseException) -> bool:
    """Return whether Lightning itself raised a ValueError or TypeError, as for arguments of the Trainer."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return isinstance(error, ValueError | TypeError) and module.startswith(("lightning.pytorch.", "lightning.fabric."))


def error_of_spawn(error: BaseException) -> InputError | None:
    """Convert the error of a module or of data that cannot be pickled for the processes that a strategy spawns."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    if not any(Path(file).parts[-2:] == ("multiprocessing", "popen_spawn_posix.py") for file in files):
        return None
    reason = str(error).partition("\n")[0]
    return InputError(
        f"trainer.strategy: the processes that spawn starts get the module pickled, which fails ({reason}); set "
        "trainer.strategy=ddp, whose processes build it themselves"
    )


def origin(error: BaseException | None) -> BaseException | None:
    """Return the InputError or the exception of the user's own code at the origin of a chain, the outermost of them."""
    users = error_of_user(error)
    return next((each for each in chain(error) if isinstance(each, InputError) or each is users), None)


def condense(message: str) -> str:
    r"""Reduce a parser's message to the innermost error, preceded by its keys, with the nearest known name.

    Example:
        >>> condense('Parser key "model":\n  Errors:\n    - Option \'hidn\' is not accepted\n  Given value: 3')
        "model: Option 'hidn' is not accepted"
        >>> condense('Parser key "epochs":\n  Expected a <class \'int\'>. Got value: x')
        "epochs: Expected a <class 'int'>. Got value: x"
        >>> condense('Parser key "a":\n  Errors:\n    - Expected a typing.Literal[\'x\', 1]\n  Given value: y')
        "a: Expected one of 'x', 1. Got value: y"
        >>> condense('Parser key "a":\n  - Expected a path but ReLu either not accessible or invalid\n')
        'a: found no class ReLu; did you mean torch.nn.ReLU?'
        >>> condense('Parser key "domain_fields":\n  Expected a <class \'list\'>. Got value: site')
        "domain_fields: Expected a <class 'list'>. Got value: site; write a list as [site]"
        >>> condense('Parser key "labels":\n  Expected a <class \'str\'>. Got value: [True]')[-40:]
        "put names in quotes, as in ['yes', 'no']"
    """
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    lines = [re.sub(r"\s+", " ", line).strip(" -") for line in message.splitlines()]
    complaints = [line for line in lines if line and not _NOISE.match(line)]
    path = ""
    for line in lines:
        if problem := re.match(r"Problem with given class_path '([^']+)'", line):
            path = problem[1]
            break
    text = complaints[0] if complaints else re.sub(r"\s+", " ", message).strip()
    specific = [line for line in complaints if not line.startswith("Expected a")]
    text = specific[0] if specific else text  # of a union, the type that the value is meant for
    missing = (pattern.search(line) for line in complaints for pattern in _NO_CLASS)
    if name := next((".".join(found.groups()) for found in missing if found), None):
        return f"{': '.join(keys) or 'class'}: {_unknown_class(name)}"[:600]
    if path and complaints:
        text = f"{path}: {text}"
    if "Option 'predict_root' is not accepted" in message and _RAW_DATA not in message:
        text += _RAW_DATA
    if found := _REJECTED.search(message):
        text += _keywords(found[2], found[1])
    given = re.findall(r"Given value: (.+)", message)
    if given and re.search(r"Expected a (<class '\w+'>|typing.Literal\[.*\])$", text):
        words = ", ".join(re.findall(r"Expected a typing.Literal\[(.+)\]", message))
        types = [f"<class '{found[1]}'>" for line in complaints if (found := _EXPECTED.match(line)) and found[1]]
        text = f"Expected one of {words}" if words else f"Expected a {' or '.join(dict.fromkeys(types)) or text}"
        text = f"{text}. Got value: {given[-1]}"
    if "; write" not in text and (found := re.search(r"<class 'list'>.* Got value: ([^\[{\s][^\n]*)$", text)):
        text += f"; write a list as [{found[1]}]"
    if "in quotes" not in text and (found := re.search(r"<class 'str'>.* Got value: (.+)", text)):  # once if nested
        text += _quoting(found[1])
    return f"{': '.join(keys)}: {text}"[:600] if keys else text[:600]


def _keywords(path: str, option: str) -> str:
    """Return how to pass an option to a function that takes any keyword; empty for others."""
    module, _, name = path.rpartition(".")
    try:
        function = getattr(import_module(module), name)
        parameters = inspect.signature(function).parameters.values()
    except (ImportError, AttributeError, TypeError, ValueError):
        return ""
    if not inspect.isfunction(function) or all(each.kind is not each.VAR_KEYWORD for each in parameters):
        return ""
    return f"; {name} takes any keyword: give it in dict_kwargs: {{{option}: ...}} beside class_path"


def nearest_option(given: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown option: the most similar known one of the same group.

    Example:
        >>> nearest_option("--trainer.devics=1", ["--trainer.devices", "--data", "--trainer.precision"])
        '; did you mean --trainer.devices?'
    """
    names = [each for each in known if each.startswith("--")]
    name = given.partition("=")[0]
    group = name.rpartition(".")[0]
    beside = [each for each in names if each.rpartition(".")[0] == group]
    if beside or not group:
        return suggestion(name, beside)
    return suggestion(name.partition(".")[0], (each.partition(".")[0] for each in names))


def _unknown_class(path: str) -> str:
    """Describe why a class cannot be imported, with the nearest known one; errors inside its module are raised."""
    module, _, name = path.rpartition(".")
    nearby: Iterable[str] = ()
    if module:
        try:
            nearby = [f"{module}.{each}" for each in dir(import_module(module))]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # an import inside the user's module
            return f"found no module {module} for class {path}{_nearest_class(name)}"
        except ValueError:  # a relative path
            nearby = ()
    found = suggestion(path, nearby) if module else _nearest_class(name)
    return f"found no class {path}{found or _nearest_class(name) or '; give the import path of a class'}"


def _nearest_class(name: str) -> str:
    known = {path.rpartition(".")[2]: path for path in (*_common_classes(), *classes())}
    close = suggestion(name, known)
    if not close:  # digits for DigitsDataModule
        known = {re.sub(r"(Data)?Module$", "", each).lower(): path for each, path in known.items()}
        close = suggestion(name.lower(), known)
    return re.sub(r"\w+\?", lambda found: f"{known[found[0][:-1]]}?", close)


def _common_classes() -> Iterator[str]:
    """Yield import paths of the classes of torch and Lightning that configurations name."""
    for module in (
        "lightning.pytorch.callbacks",
        "lightning.pytorch.loggers",
        "torch.optim",
        "torchmetrics.classification",
    ):
        yield from (f"{module}.{name}" for name in import_module(module).__all__)
    for module in ("torch.nn", "torch.optim.lr_scheduler"):
        loaded = import_module(module)
        yield from (f"{module}.{name}" for name, each in vars(loaded).items() if inspect.isclass(each))


def _quoting(given: str) -> str:
    """Return how to write names that YAML reads as other values."""
    if re.search(r"\b(True|False)\b", given):
        return "; YAML reads yes, no, on, off, true and false as truth values: put names in quotes, as in ['yes', 'no']"
    return "; put names that look like numbers in quotes, as in ['1', '2']" if re.search(r"\d", given) else ""
