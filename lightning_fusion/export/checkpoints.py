"""Models to export, from checkpoints of every method."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule

from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.described import imported_class
from lightning_fusion.errors import InputError, NotImportedError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool, check_same_experts
from lightning_fusion.experts.weights import read_card
from lightning_fusion.export.network import ExportedNetwork, exported_network
from lightning_fusion.export.programs import export
from lightning_fusion.export.rules import EmbeddingRule, MeanRule
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.frugal.module import FrugalFoEModule
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.verification.evaluation import TrialEvaluationMixin

_NEW = "new"
"""Name of a complementary expert beside the frozen ones."""


def export_checkpoint(
    checkpoint: str,
    output: str,
    experts: Mapping[str, Expert] | ExpertPool | None = None,
    input_shape: Sequence[int] | None = None,
    max_tokens: int | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    fuser: type[FoEFuserModule] = FoEFuserModule,
) -> dict[str, Any]:
    """Export the model of a checkpoint (:func:`export`).

    Args:
        checkpoint: Checkpoint of an expert, a complementary expert (ACoRL), a student (HaT), a fuser or a FrugalFoE
            policy.
        output: Path of a new folder.
        experts: The experts that a fuser or policy was trained with; fingerprints are checked. With a complementary
            expert: the frozen ones, for the mean of the outputs of all. ``None`` (default) exports an expert alone.
        input_shape: Shape of one sample, where the experts do not record it.
        max_tokens: For texts, instead: number of tokens of the longest text.
        onnx: Write an ONNX file as well.
        overwrite: Replace an earlier export.
        fuser: Class of the fuser; a subclass that is imported is found by itself.

    Returns:
        The manifest.

    Raises:
        InputError: If the checkpoint is that of another model, the experts are not those of its training, the folder
            is taken, or an expert cannot be exported.
    """
    network = _network(checkpoint, experts, fuser)
    return export(network, output, input_shape, max_tokens, onnx, overwrite, checkpoint)


def _network(
    checkpoint: str, experts: Mapping[str, Expert] | ExpertPool | None, fuser: type[FoEFuserModule]
) -> ExportedNetwork:
    content = read_checkpoint(checkpoint)
    if read_card(content, f"checkpoint: {checkpoint}"):
        return _of_expert(checkpoint, content, experts)
    if experts is None:
        raise InputError(
            f"experts: {checkpoint} is the checkpoint of a fuser or policy, whose program contains the experts; give "
            "them (-c POOL, a file that names the experts, such as pool.yaml of a run)"
        )
    if "policy" in content:
        policy = _policy(content["policy"], checkpoint)
        pool = ExpertPool.of(experts, policy.classes)
        return exported_network(FrugalFoEModule(policy, pool))
    own = (content.get("hyper_parameters") or {}).get("_class_path")
    if (other := imported_class(own, LightningModule)) and not issubclass(other, FoEFuserModule):
        raise InputError(
            f"checkpoint: {checkpoint} is that of a {other.__name__}, which is not exported; expected an expert, a "
            "complementary expert, a student, a fuser or a policy"
        )
    if own is not None and imported_class(own, fuser) is None:
        raise NotImportedError(
            f"checkpoint: {checkpoint} contains a {str(own)[:80]}, which is no imported {fuser.__name__}; name the "
            f"class of the fuser (--fuser={str(own)[:80]})"
        )
    trained = fuser.load_from_checkpoint(checkpoint, map_location="cpu", experts=None)
    pool = ExpertPool.of(experts, trained.classes)
    if list(pool.names) != list(trained.expert_classes):
        raise InputError(
            f"experts: found {shorten(pool.names)}; the fuser was trained with {shorten(trained.expert_classes)}"
        )
    check_same_experts(content.get("experts") or {}, pool.metadata())
    trained.pool = pool
    return exported_network(trained)


def _of_expert(
    checkpoint: str, content: Mapping[str, Any], experts: Mapping[str, Expert] | ExpertPool | None
) -> ExportedNetwork:
    """Return the network of an expert, alone or beside the frozen ones that it complements."""
    expert = Expert(checkpoint=checkpoint)
    path = (content.get("hyper_parameters") or {}).get("_class_path")
    embeds = imported_class(path, TrialEvaluationMixin) is not None
    if experts is None:
        method = str(path or "expert").rpartition(".")[2]
        pool = ExpertPool({"expert": expert})
        return ExportedNetwork(pool, EmbeddingRule() if embeds else MeanRule(method=method))
    if imported_class(path, ACoRLModule) is None:
        raise InputError(
            f"experts: {checkpoint} is the checkpoint of one model ({str(path or 'an expert')[:80]}), which answers "
            "alone; leave experts out"
        )
    known = ExpertPool.of(experts, expert.classes)
    check_same_experts(content.get("experts") or {}, known.metadata())
    if _NEW in known.names:
        raise InputError(f"experts: {_NEW} is the name of the model of the checkpoint; give the expert another name")
    pool = ExpertPool({**known.members, _NEW: expert}, expert.classes)
    return ExportedNetwork(pool, EmbeddingRule() if embeds else MeanRule(method="ACoRL, mean of all outputs"))


def _policy(saved: Any, checkpoint: str) -> FrugalFoE:
    if not isinstance(saved, Mapping) or not all(isinstance(saved.get(k), Mapping) for k in ("metadata", "tensors")):
        raise InputError(f"checkpoint: the policy of {checkpoint} is damaged; expected metadata and tensors")
    return FrugalFoE.from_state(saved["metadata"], saved["tensors"], checkpoint)
