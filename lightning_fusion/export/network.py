"""Experts and the rule of a method as one network, from raw samples to probabilities."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.names import NamedModules
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.vocabulary import Vocabulary
from lightning_fusion.export.preparation import check_module, check_rates, preparation, prepared_expert
from lightning_fusion.export.rules import Answers, EmbeddingRule, FuserRule, MeanRule, PolicyRule, Rule
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.frugal.module import FrugalFoEModule
from lightning_fusion.verification.evaluation import TrialEvaluationMixin


class ExportedNetwork(nn.Module):
    """A pool of experts and the rule of a method as one network.

    The input has raw values (images from 0 to 255, signals as recorded, waveforms) where the preprocessing of all
    experts is known, and is preprocessed for each expert as in its training; else it is that of the experts' networks.

    Args:
        pool: The experts; each has to be a torch module.
        rule: What answers.

    Raises:
        InputError: If an expert cannot be part of a program.
    """

    def __init__(self, pool: ExpertPool, rule: Rule) -> None:
        super().__init__()
        for name, expert in pool.members.items():
            check_module(name, expert)
        read = {name: (expert.preprocessing or {}).get("tokenizer") for name, expert in pool.members.items()}
        if len({each for each in read.values() if each is not None}) > 1:
            raise InputError(f"experts: {shorten(read)} have different tokenizers; a program reads tokens of one")
        if rule.reads_representations and (lacking := [n for n, each in pool.members.items() if each.features is None]):
            raise InputError(f"features: the experts {shorten(lacking)} have no layer set; set features of each")
        check_rates(pool.members)
        self.pool = [pool]  # a list keeps the originals apart from the weights of the program
        self.classes, self.rule = pool.classes, rule
        self.experts = NamedModules({name: prepared_expert(expert) for name, expert in pool.members.items()})
        self.ways: nn.ModuleList | None = None
        self.prepare(None)
        width = len(pool.classes)
        columns = Vocabulary.of(pool, None).columns
        place = [expert * width + column for expert, own in enumerate(columns) for column in own]
        self.register_buffer("place", torch.tensor(place), persistent=False)
        self.place: Tensor

    def prepare(self, shape: Sequence[int] | None) -> None:
        """Take raw samples of this shape, where the preprocessing of every expert is known.

        Raises:
            InputError: If an expert prepares them with anything but tensors of one size.
        """
        ways = [preparation(name, expert, shape) for name, expert in self.pool[0].members.items()]
        self.ways = None if None in ways else nn.ModuleList(cast(list[nn.Module], ways))

    @property
    def takes_raw_input(self) -> bool:
        """Whether the input has raw values."""
        return self.ways is not None

    def forward(self, input: Any) -> Tensor:
        """Map (B, ...) input, or a dict of texts' tokens, to the output of the rule."""
        inputs = [input] * len(self.experts) if self.ways is None else [way(input) for way in self.ways]
        pairs = list(zip(cast(list[Expert], list(self.experts.values())), inputs, strict=True))
        if self.rule.reads_representations:
            both = [expert.forward_with_representations(each) for expert, each in pairs]
        else:
            both = [(expert(each), each) for expert, each in pairs]
        outputs = torch.cat([pair[0] for pair in both], dim=1)
        shape = outputs.shape[0], len(self.experts), len(self.classes)
        spread = outputs.new_zeros(shape[0], shape[1] * shape[2]).index_copy(1, self.place, outputs).reshape(shape)
        result: Tensor = self.rule(
            Answers(outputs, spread, [pair[1] for pair in both] if self.rule.reads_representations else [])
        )
        return result


def exported_network(model: Any) -> ExportedNetwork:
    """Return the network of a model of any method.

    Args:
        model: An :class:`~lightning_fusion.Expert`; an :class:`~lightning_fusion.ExpertModule`, such as a complementary
            expert or the student of HaT; a fuser or policy with experts; or an object with a method
            ``exported_network``, such as the modules of finished runs.

    Raises:
        InputError: If it is none of them, has no experts, or an expert cannot be part of a program.
    """
    if isinstance(model, ExportedNetwork):
        return model
    if isinstance(model, Expert):
        return ExportedNetwork(ExpertPool({"expert": model}), MeanRule(method="expert"))
    if isinstance(model, ExpertModule):
        return _of_module(model)
    if isinstance(model, (FoEFuserModule, FrugalFoEModule)):
        if model.pool is None:
            raise InputError(
                f"experts: this {type(model).__name__} has none, and reads stored outputs only; a program contains the "
                "experts: give them"
            )
        if isinstance(model, FrugalFoEModule):
            if not model.policy.names:
                raise InputError("policy: it is not fitted; fit it, or load a checkpoint of a fitted one")
            return ExportedNetwork(model.pool, PolicyRule(model.policy))
        if type(model).forward is not FoEFuserModule.forward:
            raise InputError(
                f"checkpoint: {type(model).__name__} overrides forward, which the program would ignore; override fuse"
            )
        return ExportedNetwork(model.pool, FuserRule(model))
    if hasattr(model, "exported_network"):
        network: ExportedNetwork = model.exported_network()
        return network
    raise InputError(
        f"model: a {type(model).__name__} cannot be exported; expected an Expert, an ExpertModule, a fuser or a policy"
    )


def _of_module(module: ExpertModule) -> ExportedNetwork:
    """Return the network that a module trains."""
    network = copy.deepcopy(module.network)  # an Expert freezes the one that it is given
    expert = Expert(network, classes=module.classes, features=module.features, domains=module.trained_on)
    expert.preprocessing = module.preprocessing
    expert.new_sample_facts = module.new_sample_facts
    method = type(module).__name__
    rule = EmbeddingRule() if isinstance(module, TrialEvaluationMixin) else MeanRule(method=method)
    return ExportedNetwork(ExpertPool({"expert": expert}), rule)
