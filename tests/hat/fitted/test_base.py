import torch
from helpers import tiny
from helpers.evidence import EVIDENCE, INPUT, POOL


def test_evidence_is_what_the_sources_say_of_shared_classes():
    assert EVIDENCE.log_probabilities.shape == (30, 2, 3) and EVIDENCE.representations.shape == (30, 10)
    outputs, representations = POOL.forward_with_representations(INPUT)
    torch.testing.assert_close(EVIDENCE.representations, torch.cat(list(representations.values()), 1))
    for place, (name, own) in enumerate(tiny.EXPERT_CLASSES.items()):
        kept = [label for label in own if label in tiny.CLASSES]
        raw = outputs[name][:, [own.index(label) for label in kept]]
        found = EVIDENCE.log_probabilities[:, place].exp()[:, [tiny.CLASSES.index(label) for label in kept]]
        torch.testing.assert_close(found, raw / raw.sum(1, keepdim=True))
