from functools import partial

import pytest

from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.foe.protocol import foe
from lightning_fusion.recipes.frugal.protocol import frugal
from lightning_fusion.recipes.hat.protocol import hat

NETWORK = partial(SmallConvNet, width=2, in_channels=1)
RUNS = {
    "foe": partial(foe, network=NETWORK),
    "frugal": partial(frugal, network=NETWORK),
    "hat": partial(hat, networks={"small": NETWORK}, features="pool"),
}


@pytest.mark.parametrize("recipe", RUNS)
def test_a_selected_domain_is_not_dropped(recipe, tmp_path):
    data = DigitsDataModule(num_domains=2, classes_per_domain=6, domain="domain_0")
    with pytest.raises(InputError, match="data: domain is 'domain_0'; the recipe trains on each domain of the data"):
        RUNS[recipe](data=data, output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
