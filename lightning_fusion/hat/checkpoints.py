"""The teacher in checkpoints: stored to resume a training, and left out of the student's file."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.pool import ExpertPool, restore_experts, store_experts
from lightning_fusion.hat.teacher import FixedTeacher, Teacher

_OF_TRAINING = ("teacher.", "hints.", "batches_done")  # state that the student does not need


def store_teacher(checkpoint: dict[str, Any], pool: ExpertPool, teacher: Teacher | None) -> None:
    """Add what builds the teacher again, and the sources without their weights, or keep the student's state alone.

    Args:
        checkpoint: Checkpoint that is about to be saved; one without states of optimizers is the student's.
        pool: The sources.
        teacher: The teacher; ``None`` before a training.
    """
    store_experts(checkpoint, pool.metadata(), weights=False)
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


def restore_sources(checkpoint: dict[str, Any], pool: ExpertPool) -> Mapping[str, Any]:
    """Check the sources of an interrupted run, and return the sizes with which its teacher is built.

    Args:
        checkpoint: Checkpoint of a training that is about to be resumed.
        pool: The current sources.

    Raises:
        InputError: If they are others than those of the interrupted run.
    """
    sizes: Mapping[str, Any] = checkpoint["sources"]
    if list(sizes["sources"]) != pool.names:
        raise InputError(
            f"experts: the model was trained from {shorten(sizes['sources'])}; found {shorten(pool.names)}"
        )
    restore_experts(checkpoint, pool)
    return sizes


def restore_teacher(checkpoint: Mapping[str, Any], teacher: Teacher) -> None:
    """Give a teacher the dictionary and the fitted model of an interrupted run, whose states are loaded afterwards.

    Args:
        checkpoint: Checkpoint of a training that is about to be resumed.
        teacher: The teacher, of the same sizes.

    Raises:
        InputError: If the teacher or the training samples are others than those of the interrupted run.
    """
    state = checkpoint["state_dict"]
    found = [state["teacher.knowledge.index"], state["teacher.knowledge.target"]]
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
