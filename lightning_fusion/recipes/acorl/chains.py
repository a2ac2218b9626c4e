"""Chains of members of one seed: a plain chain, and chains with each member trained against the previous ones."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback
from torch import Tensor, nn

from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.recipes.advice import Scores
from lightning_fusion.recipes.inspection import Inspection
from lightning_fusion.recipes.report import Figures
from lightning_fusion.recipes.seed_run import SeedRun, stage_seed
from lightning_fusion.schedules import Schedule

PLAIN, COMPLEMENTARY = "plain", "ACoRL"


@dataclass(frozen=True)
class Plan:
    """Training settings of every seed; attributes that are not listed are the recipe's arguments of the same name.

    Attributes:
        strengths: Strengths of the reversal, one chain each; the plain chain is always trained.
        arguments: Arguments of every member's module.
        branch: Further arguments of the modules that train against other members.
    """

    network: Callable[[int], nn.Module]
    larger: Callable[[int], nn.Module] | None
    members: int
    epochs: int
    strengths: Sequence[float]
    schedule: Callable[[float], Schedule]
    arguments: dict[str, Any]
    branch: dict[str, Any]


class ChainRun(SeedRun, ABC):
    """One seed of all chains; a subclass implements one kind of task."""

    plain: type[ExpertModule]
    complementary: type[ACoRLModule]
    metric: str
    """Name of the metric in the report's table."""
    title: str
    beside: tuple[str, ...]
    """Further metrics of that table."""
    sign: int
    """1 if a higher metric is better, -1 if a lower one is."""
    fusions: tuple[str, ...]
    """Fusions, the simplest first; the strength is selected by the first one."""
    fitted: frozenset[str]
    """Fusions that are fitted on the validation split, whose results on it are no reason to advise them."""
    likeness: tuple[str, ...]
    """Similarity measures of the members of a chain."""
    validation: dict[float, float]
    """The metric of the first fusion on the validation split, by strength."""

    @classmethod
    def method(cls, arm: str, fusion: str | None = None) -> str:
        """Return the name of a fused arm in the report. ``None`` (default) means the first fusion."""
        return f"{arm}, {fusion or cls.fusions[0]}"

    @classmethod
    def by_simplicity(cls, members: int) -> tuple[str, ...]:
        """Return the methods, the simplest first: single models, then fusions, ACoRL's after the plain chain's.

        Args:
            members: Length of the chains.
        """
        others = [f"member {number}, {arm}" for arm in (PLAIN, COMPLEMENTARY) for number in range(2, members + 1)]
        fused = [cls.method(arm, fusion) for fusion in cls.fusions for arm in (PLAIN, COMPLEMENTARY)]
        return ("first member", *others, "one larger model", *fused)

    @abstractmethod
    def predict(self) -> None:
        """Run all members once, and evaluate each chain on the validation split."""

    def score(self, chosen: float) -> None:
        """Add the test results to the report, with the chain of the selected strength as ACoRL's."""
        start = time.perf_counter()
        arms = self._arms(chosen)
        fused = {strength: self._fused(chain, "test") for strength, chain in self.chains.items()}
        for arm, strength in ((PLAIN, 0.0), (COMPLEMENTARY, chosen)):
            for fusion, answer in fused[strength].items():
                self._score(self.method(arm, fusion), answer)
            self._diversity(arm, arms[arm])
        for method, name in self._singles(arms):
            self._score(method, self._alone(name, "test"))
            self.report.validate(method, self._scores(self._alone(name, "val")), self.seed, 1)
        for arm, chain in arms.items():
            for fusion, answer in self._fused(chain, "val").items():
                why = "it was fitted on the validation samples" if fusion in self.fitted else ""
                self.report.validate(self.method(arm, fusion), self._scores(answer), self.seed, len(chain), why)
        values = {
            strength: {fusion: self._value(answer) for fusion, answer in answers.items()}
            for strength, answers in fused.items()
        }
        self._by_strength(values)
        self.report.took("fusing", start)

    @abstractmethod
    def _fused(self, chain: list[str], split: str) -> dict[str, Tensor]:
        """Return the predictions of each fusion of a chain on a split."""

    @abstractmethod
    def _alone(self, name: str, split: str) -> Tensor:
        """Return the predictions of one model on a split."""

    @abstractmethod
    def _scores(self, answer: Tensor) -> Scores:
        """Return the metric of predictions on the validation split."""

    @abstractmethod
    def _value(self, answer: Tensor) -> float:
        """Return the metric of predictions on the test split."""

    @abstractmethod
    def _score(self, method: str, answer: Tensor) -> None:
        """Add the results of a method to the report."""

    @abstractmethod
    def _diversity(self, arm: str, chain: list[str]) -> None:
        """Add the mean pairwise similarity of the members of a chain to the report."""

    @abstractmethod
    def data_description(self) -> dict[str, Any]:
        """Return the description of the data in the report."""

    def text(self, seeds: Sequence[int]) -> list[str]:
        """Return further lines of the report on all seeds, in Markdown."""
        return []

    def notes(self) -> list[str]:
        """Return further notes of the report."""
        return []

    @abstractmethod
    def inspect(self, chain: list[str], title: str) -> Inspection:
        """Return test samples with the predictions of the members of a chain and of its first fusion.

        Args:
            chain: Names of the members.
            title: The method and the seed.
        """

    @abstractmethod
    def figures(self) -> Figures:
        """Return the figures of this seed."""

    # ---------------------------------------------------------------- members

    def grow(self, plan: Plan) -> None:
        """Train the missing members."""
        names = [f"member_{number + 1}" for number in range(plan.members)]
        self.chains = {0.0: names}
        self.networks: dict[str, Callable[[int], nn.Module]] = {}
        for number, name in enumerate(names):
            self._train(name, number, self.plain, plan.network, plan)
        for strength in plan.strengths:
            chain = names[:1]
            for number in range(1, plan.members):
                name = member_against(number + 1, strength)
                pool = {other: self._expert(other) for other in chain}
                more = {"experts": pool, "schedule": plan.schedule(strength), **plan.branch}
                self._train(name, number, self.complementary, plan.network, plan, more)
                chain.append(name)
            self.chains[strength] = chain
        if plan.larger is not None:
            self._train("larger", 0, self.plain, plan.larger, plan)

    def _train(
        self,
        name: str,
        number: int,
        kind: type[ExpertModule],
        network: Callable[[int], nn.Module],
        plan: Plan,
        more: dict[str, Any] | None = None,
    ) -> None:
        """Train one member; the n-th of every chain has the same initial weights and order of data."""
        self.networks[name] = network
        preprocessing = getattr(self.data, "preprocessing", None)
        arguments = plan.arguments | (more or {})
        build = partial(kind, network=network, classes=self.data.classes, preprocessing=preprocessing, **arguments)
        self.train(
            f"members/{name}",
            build,
            self.data,
            seed=stage_seed(self.seed, number),
            epochs=plan.epochs,
            label=f"seed {self.seed}  {name}",
            metric=self.metric,
            callbacks=self._callbacks(),
        )

    def _callbacks(self) -> list[Callback]:
        """Return the callbacks of the training of a member."""
        return []

    def _path(self, name: str) -> Path:
        return self.folder / "members" / f"{name}.ckpt"

    def _expert(self, name: str) -> Expert:
        return self.load_expert(self._path(name), self.networks[name])

    def _pool(self) -> ExpertPool:
        return ExpertPool({name: self._expert(name) for name in self.networks}, self.data.classes)

    # ---------------------------------------------------------------- figures

    def _arms(self, chosen: float) -> dict[str, list[str]]:
        return {PLAIN: self.chains[0.0], COMPLEMENTARY: self.chains[chosen]}

    def _singles(self, arms: dict[str, list[str]]) -> Iterable[tuple[str, str]]:
        """Yield (name in the report, member) of each model that is evaluated alone."""
        yield "first member", arms[PLAIN][0]
        for arm, chain in arms.items():
            for number, name in enumerate(chain[1:], 2):
                yield f"member {number}, {arm}", name
        if "larger" in self.networks:
            yield "one larger model", "larger"

    def members(self, chosen: float) -> dict[str, list[str]]:
        """Return the models of each method that can answer new samples.

        Args:
            chosen: The selected strength.
        """
        arms = self._arms(chosen)
        fused = {self.method(arm, fusion): chain for arm, chain in arms.items() for fusion in self.fusions}
        return {method: [name] for method, name in self._singles(arms)} | fused

    def fitted_parameters(self, chosen: float) -> dict[str, list[float]]:
        """Return the parameters of methods that are fitted on validation results which the run does not keep.

        Args:
            chosen: The selected strength.
        """
        return {}

    def _by_strength(self, test: Mapping[float, Mapping[str, float]]) -> None:
        """Add the metrics of every fusion at every strength, and the validation metric that selects the strength."""
        name = f"{self.metric} by strength"
        for strength, figures in test.items():
            for fusion, value in figures.items():
                self.report.add(fusion, name, value, self.seed, strength=strength)
            self.report.add(self.fusions[0], name, self.validation[strength], self.seed, "val", strength=strength)


def member_against(number: int, strength: float) -> str:
    """Return the name of a complementary member; strengths that print alike have names of their own.

    Example:
        >>> member_against(2, 1), member_against(2, 0.1), member_against(2, 0.1000000001)
        ('member_2_against_1', 'member_2_against_0_1', 'member_2_against_0_1000000001')
    """
    exact = repr(float(strength)).removesuffix(".0").replace(".", "_")
    return f"member_{number}_against_{exact}"


def pairs_of(chain: Sequence[str], tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of every pair of members, in order.

    Example:
        >>> import torch
        >>> tensors = {name: torch.tensor(value) for name, value in (("a", 1), ("b", 2), ("c", 3))}
        >>> [(int(x), int(y)) for x, y in pairs_of(["a", "b", "c"], tensors)]
        [(1, 2), (1, 3), (2, 3)]
    """
    return [(tensors[one], tensors[other]) for row, one in enumerate(chain) for other in chain[row + 1 :]]
