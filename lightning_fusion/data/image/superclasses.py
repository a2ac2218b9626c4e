"""Super-classes of a file, or of CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features, 2009)."""

import json
from pathlib import Path

from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.errors import InputError

CIFAR100_SUPERCLASSES: dict[str, list[str]] = {
    "aquatic_mammals": ["beaver", "dolphin", "otter", "seal", "whale"],
    "fish": ["aquarium_fish", "flatfish", "ray", "shark", "trout"],
    "flowers": ["orchid", "poppy", "rose", "sunflower", "tulip"],
    "food_containers": ["bottle", "bowl", "can", "cup", "plate"],
    "fruit_and_vegetables": ["apple", "mushroom", "orange", "pear", "sweet_pepper"],
    "household_electrical_devices": ["clock", "keyboard", "lamp", "telephone", "television"],
    "household_furniture": ["bed", "chair", "couch", "table", "wardrobe"],
    "insects": ["bee", "beetle", "butterfly", "caterpillar", "cockroach"],
    "large_carnivores": ["bear", "leopard", "lion", "tiger", "wolf"],
    "large_man-made_outdoor_things": ["bridge", "castle", "house", "road", "skyscraper"],
    "large_natural_outdoor_scenes": ["cloud", "forest", "mountain", "plain", "sea"],
    "large_omnivores_and_herbivores": ["camel", "cattle", "chimpanzee", "elephant", "kangaroo"],
    "medium_mammals": ["fox", "porcupine", "possum", "raccoon", "skunk"],
    "non-insect_invertebrates": ["crab", "lobster", "snail", "spider", "worm"],
    "people": ["baby", "boy", "girl", "man", "woman"],
    "reptiles": ["crocodile", "dinosaur", "lizard", "snake", "turtle"],
    "small_mammals": ["hamster", "mouse", "rabbit", "shrew", "squirrel"],
    "trees": ["maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"],
    "vehicles_1": ["bicycle", "bus", "motorcycle", "pickup_truck", "train"],
    "vehicles_2": ["lawn_mower", "rocket", "streetcar", "tank", "tractor"],
}


def read_superclasses(source: str) -> dict[str, list[str]]:
    """Return the classes of each super-class.

    Args:
        source: ``cifar100``, or the path of a JSON file of {super-class: [class, ...]}.

    Raises:
        InputError: If the file does not exist, or has another content.
    """
    if source == "cifar100":
        return CIFAR100_SUPERCLASSES
    path = Path(source)
    if not path.is_file():
        raise InputError(f"superclasses: found no file {path}; expected 'cifar100' or a JSON file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return {canonical_label(name): as_labels(classes, "superclasses") for name, classes in content.items()}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"superclasses: {path} is not JSON of {{super-class: [class, ...]}} ({error}); repair it"
        ) from error
