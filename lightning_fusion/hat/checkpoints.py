"""The teacher in checkpoints: stored to resume a training, and left out of the student's file."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_fusion.checkpoints import uncompiled
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.pool import ExpertPool, restore_experts, store_experts
from lightning_fusion.hat.arguments import MIXERS
from lightning_fusion.hat.teacher import FixedTeacher, Teacher

_OF_STATE = ("teacher", "representation_weight", "dim", "heads", "accuracy_source")
_ROWS = ("teacher.knowledge.index", "teacher.knowledge.target")
_OF_TRAINING = ("teacher.", "hints.", "batches_done")  # state that the student does not need


def store_teacher(checkpoint: dict[str, Any], pool: ExpertPool, teacher: Teacher | None) -> None:
    """Add what builds the teacher again, and the sources without their weights, or keep the student's state alone.

    Args:
        checkpoint: Checkpoint that is about to be saved; one without states of optimizers is the student's.
        pool: The sources.
        teacher: The teacher; ``None`` before a training.
    """
    store_experts(checkpoint, pool.origin(), weights=False)
    if "optimizer_states" in checkpoint and teacher is not None:
        checkpoint["sources"] = teacher.sizes
        checkpoint["teacher"] = getattr(teacher, "chosen", None)
    else:  # weights only: the student, as it is published
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if not name.startswith(_OF_TRAINING)}


def restore_student(checkpoint: dict[str, Any], pool: ExpertPool, own: Mapping[str, Tensor]) -> None:
    """Complete the state of a student's file with the module's teacher, which the file does not replace.

    Args:
        checkpoint: Checkpoint of a student that is about to be loaded.
        pool: The current sources.
        own: The module's state.
    """
    checkpoint["state_dict"] |= {name: value for name, value in own.items() if name.startswith(_OF_TRAINING)}
    restore_experts(checkpoint, pool)


def restore_sources(checkpoint: dict[str, Any], module: Any) -> Mapping[str, Any]:
    """Check sources and arguments of an interrupted run, and return the sizes with which its teacher is built.

    Args:
        checkpoint: Checkpoint of a training that is about to be resumed or tested.
        module: The :class:`~lightning_fusion.HaTJointModule`.

    Raises:
        InputError: If they are others than those of the interrupted run, or the checkpoint is damaged.
    """
    sizes: Mapping[str, Any] = checkpoint["sources"]
    names, state = module.pool.names, checkpoint.get("state_dict")
    if not _is_sizes(sizes) or not isinstance(state, Mapping) or not {*_ROWS} <= set(state):
        raise InputError("ckpt_path: the checkpoint is damaged: sizes or samples of its teacher are missing")
    if list(sizes["sources"]) != names:
        raise InputError(f"experts: the model was trained from {shorten(sizes['sources'])}; found {shorten(names)}")
    _check_arguments(checkpoint.get("hyper_parameters") or {}, module)
    _check_network(state, module.network.state_dict())
    if module.teacher is not None and (own := module.teacher.sizes) != dict(sizes):
        part = next(part for part in own if own[part] != sizes[part])
        what = {"own": "network: the student's representation", "sources": "experts: the sources' representations"}
        raise InputError(
            f"{what.get(part, 'experts: the heads')} of the interrupted run had {sizes[part]}; found {own[part]}"
        )
    restore_experts(checkpoint, module.pool)
    return sizes


def _is_sizes(sizes: Any) -> bool:
    known = isinstance(sizes, Mapping) and {"own", "sources", "heads"} <= set(sizes)
    return known and isinstance(sizes["sources"], Mapping) and isinstance(sizes["heads"], Mapping)


def _check_arguments(recorded: Mapping[str, Any], module: Any) -> None:
    """Raise InputError for arguments that determine the state of the teacher, and differ from those recorded."""
    kinds = {name: (recorded[name], module.hparams[name]) for name in _OF_STATE if {name} <= recorded.keys()}
    for name, (old, new) in kinds.items():
        if name == "teacher" and old not in MIXERS and new not in MIXERS:
            continue  # which of the fitted ones was chosen is compared with those to choose from
        same = bool(old) == bool(new) if name == "representation_weight" else old == new
        if not same:
            raise InputError(
                f"{name} is {new}, and the checkpoint is of a training with {name}: {old}; give the same, or train anew"
            )


def _check_network(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InputError if the weights in a checkpoint are of another network."""
    own = {uncompiled(key): value for key, value in own.items()}
    found = {
        uncompiled(key).removeprefix("network."): value for key, value in state.items() if key.startswith("network.")
    }
    for key in dict.fromkeys([*own, *found]):
        parts = [each.get(key) for each in (own, found)]
        ours, theirs = (list(part.shape) if isinstance(part, Tensor) else "missing" for part in parts)
        if ours != theirs:
            raise InputError(
                f"network: {key} is {ours}, and {theirs} in the checkpoint; give the network of its training"
            )


def restore_teacher(checkpoint: Mapping[str, Any], teacher: Teacher) -> None:
    """Give a teacher the dictionary and the fitted model of an interrupted run, whose states are loaded afterwards.

    Args:
        checkpoint: Checkpoint of a training that is about to be resumed.
        teacher: The teacher, of the same sizes.

    Raises:
        InputError: If the teacher or the training samples are others than those of the interrupted run.
    """
    state = checkpoint["state_dict"]
    found = [state[name] for name in _ROWS]
    if teacher.knowledge is None:
        teacher.note_rows(*found)
    if isinstance(teacher, FixedTeacher):
        if (chosen := checkpoint.get("teacher")) not in teacher.names:
            raise InputError(f"teacher: the model was trained with {chosen}; found {shorten(teacher.names)}")
        teacher.build(str(chosen))
    rows = teacher.knowledge
    if not rows.is_of(*found):
        raise InputError(
            f"data: the interrupted run had {len(found[0])} training samples, {int((found[1] >= 0).sum())} of them "
            f"labeled; found {len(rows.index)} and {int((rows.target >= 0).sum())}, or others: resume on the same "
            "data with the same seed"
        )
