"""Serving 20 networks: asking as few as FrugalFoE decides against asking all of them."""

import time

import torch
from measuring import Result, clock
from recorded import CLASSES, recorded
from torch import Tensor

from lightning_fusion.encoders import TorchvisionClassifier
from lightning_fusion.frugal.policy import FrugalFoE

VALIDATION, IMAGES, EXPERTS, BATCH = 5_000, 500, 20, 128
"""Some minutes. The tables are empty at first: with more images their share is smaller."""


def measure() -> list[Result]:
    """One pass over the images on either side; what untrained networks say is replaced by recorded outputs."""
    torch.manual_seed(0)
    data = recorded(VALIDATION + IMAGES)
    known, served = data[:VALIDATION], data[VALIDATION:]
    answers = {name: torch.from_numpy(values) for name, values in served.outputs.items()}
    networks = {name: TorchvisionClassifier(CLASSES, "resnet18", small_images=True).eval() for name in answers}
    images = torch.randn(IMAGES, 3, 32, 32)
    policy = FrugalFoE(trade_off=0.02, neighbors=50).fit(known.outputs, known.targets)
    waited, questions = 0.0, 0

    @torch.inference_mode()
    def ask(name: str, rows: Tensor) -> Tensor:
        nonlocal waited, questions
        begin = time.perf_counter()
        for some in rows.split(BATCH):
            networks[name](images[some]).softmax(-1)
        waited += time.perf_counter() - begin
        questions += len(rows)
        return answers[name][rows]

    everything = torch.arange(IMAGES)
    for name in answers:
        ask(name, everything[:2])  # warm
    tiny = {name: values[:60] for name, values in known.outputs.items()}
    FrugalFoE().fit(tiny, known.targets[:60]).predict(tiny)  # loops are compiled once for a machine
    waited, questions = 0.0, 0
    frugal = clock(lambda: policy.predict(ask, IMAGES))
    queried, deciding = questions / IMAGES, 1 - waited / frugal.wall
    everyone = clock(lambda: [ask(name, everything) for name in answers])
    what = (
        f"{IMAGES} images, {queried:.1f} of {EXPERTS} ResNet-18 queried, empty tables (decisions are {deciding:.0%}) / "
        f"all queried, {everyone.wall:.0f} s"
    )
    ratio = frugal.wall / everyone.wall
    return [
        Result("serving", what, ratio, 0.35, cpu_ratio=frugal.cpu / everyone.cpu),
        Result("serving", "the same without deciding", ratio * (1 - deciding)),
    ]
