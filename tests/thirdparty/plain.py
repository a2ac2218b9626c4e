"""An encoder, a LightningModule and data modules that know nothing of the library."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Encoder(nn.Module):
    """One linear layer on flattened images."""

    def __init__(self, num_classes: int, pixels: int = 64, bias: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(pixels, num_classes, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1).float())


def _problem(rows: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (rows,), generator=generator)
    index = torch.arange(rows)
    images = torch.randn(rows, 1, 4, 4, generator=generator) + 3.0 * target[:, None, None, None]
    return TensorDataset(images, target, torch.nn.functional.one_hot(target, 2).bool(), index)


class Data(LightningDataModule):
    """Random images of two classes, as tuples of four: input, target, domain, index. States no facts."""

    def __init__(self, rows: int = 24, batch_size: int = 8) -> None:
        super().__init__()
        self.rows, self.batch_size = rows, batch_size

    def loader(self) -> DataLoader:
        return DataLoader(_problem(self.rows), batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader:
        return self.loader()

    def val_dataloader(self) -> DataLoader:
        return self.loader()

    def test_dataloader(self) -> DataLoader:
        return self.loader()

    def predict_dataloader(self) -> DataLoader:
        return self.loader()


class Classifier(LightningModule):
    """An ordinary classifier on tuples; its arguments are plain."""

    def __init__(self, width: int = 3, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))
        self.lr = lr

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self.network(batch[0]).argmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)
