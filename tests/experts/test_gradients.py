"""Gradients of experts and fused modules through captum: those of the bare networks, or errors."""

from collections.abc import Callable

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, LayerIntegratedGradients, Occlusion
from helpers import language_models, models, tiny
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lightning_fusion import Expert, ExpertModule, ExpertPool, FoEFuserModule
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.data.samples.waveforms import WaveformPreprocessing
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.timm import TimmExpert
from lightning_fusion.experts.adapters.torchvision import TorchvisionExpert
from lightning_fusion.experts.adapters.transformers import TransformersExpert

TWO = ["cat", "dog"]


class Bare(nn.Module):
    """A network as captum has it without this library: input to probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> Tensor:
        return self.network(input).softmax(-1)


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def image_expert(seed: int = 0, **arguments: object) -> Expert:
    torch.manual_seed(seed)
    return Expert(SmallConvNet(3, in_channels=3, width=4), classes=models.CLASSES, **arguments)


def sklearn_expert() -> Expert:
    x, y = images().flatten(1), ["cat", "dog"]
    model = LogisticRegression().fit(x.numpy(), y)

    def predict(batch: Tensor) -> object:
        return model.predict_proba(batch.flatten(1).numpy())

    return Expert(predict, classes=TWO, output="probabilities")


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    assert expected.abs().sum() > 0


class TestInput:
    def test_attributions_are_those_of_the_bare_network(self):
        expert, x = image_expert(), images()
        bare = Bare(expert.network)
        same(IntegratedGradients(expert).attribute(x, target=1), IntegratedGradients(bare).attribute(x, target=1))
        windows = {"target": 1, "sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
        same(Occlusion(expert).attribute(x, **windows), Occlusion(bare).attribute(x, **windows))
        same(*(LayerGradCam(each, expert.network.body).attribute(x, target=1) for each in (expert, bare)))
        assert not any(weight.requires_grad for weight in expert.parameters()) and not expert.network.training

    def test_an_own_checkpoint_takes_raw_values(self, tmp_path):
        from lightning import Trainer

        torch.manual_seed(0)
        how = {"image_size": 8, "mean": [0.5] * 3, "std": [0.2] * 3, "scale": 1 / 255}
        module = ExpertModule(SmallConvNet(3, in_channels=3, width=4), classes=models.CLASSES, preprocessing=how)
        trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "own.ckpt")
        expert = Expert(module.network, checkpoint=str(tmp_path / "own.ckpt"), raw_input=True)
        raw = (images() * 255).requires_grad_()
        expert(raw)[:, 1].sum().backward()
        expected = torch.autograd.grad(Bare(expert.network)((raw / 255 - 0.5) / 0.2)[:, 1].sum(), raw)[0]
        same(raw.grad, expected)

    def test_of_a_fused_module_pass_through_every_expert(self):
        experts = {"a": image_expert(0), "b": image_expert(1)}
        fuser, x = FoEFuserModule(ExpertPool(experts)).eval(), images()
        networks = [Bare(expert.network) for expert in experts.values()]

        def by_hand(input: Tensor) -> Tensor:
            return fuser.network(torch.cat([network(input) for network in networks], 1))

        same(IntegratedGradients(fuser).attribute(x, target=0), IntegratedGradients(by_hand).attribute(x, target=0))
        layer = experts["b"].network.body
        same(LayerGradCam(fuser, layer).attribute(x, target=2), LayerGradCam(by_hand, layer).attribute(x, target=2))
        pool, mean = ExpertPool(experts), lambda input: sum(network(input) for network in networks) / 2
        pair = lambda input: sum(pool(input).values()) / 2  # noqa: E731
        same(IntegratedGradients(pair).attribute(x, target=0), IntegratedGradients(mean).attribute(x, target=0))

    def test_representations_have_them_too(self):
        expert, x = image_expert(features="pool"), images().requires_grad_()
        found = torch.autograd.grad(expert.forward_with_representations(x)[1].sum(), x)[0]
        expected = torch.autograd.grad(expert.network.pool(expert.network.body(x)).flatten(1).sum(), x)[0]
        same(found, expected)

    def test_differentiable_preprocessing_passes_them(self):
        network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        expert = Expert(network, classes=TWO, preprocess=WaveformPreprocessing(8000, normalize=True))
        x = torch.randn(3, 6, requires_grad=True)
        found = torch.autograd.grad(expert(x)[:, 0].sum(), x)[0]
        same(found, torch.autograd.grad(Bare(network)(expert.preprocess(x))[:, 0].sum(), x)[0])


class TestNoGraph:
    def test_without_a_request_nothing_is_recorded(self):
        expert = Expert(tiny.Net(2), classes=TWO)
        x = torch.randn(3, 4)
        assert not expert(x).requires_grad
        expert.network.requires_grad_(True)  # by the user's own reference
        assert not expert(x).requires_grad and not ExpertPool({"a": expert})(x)["a"].requires_grad
        with torch.no_grad():
            assert not expert(x.clone().requires_grad_()).requires_grad

    def test_a_function_around_a_trainable_network_records_nothing(self):
        network = tiny.Net(2)
        expert = Expert(lambda x: network(x), classes=TWO)
        assert not expert(torch.randn(3, 4)).requires_grad

    def test_a_fuser_on_raw_input_trains_itself_alone(self):
        fuser = FoEFuserModule(ExpertPool({"a": image_expert()}))
        fuser(images())[:, 0].sum().backward()
        assert {name.partition(".")[0] for name, weight in fuser.named_parameters() if weight.grad is not None} == {
            "network"
        }


class TestRefused:
    @pytest.fixture
    def fuser(self) -> FoEFuserModule:
        return FoEFuserModule(ExpertPool({"a": image_expert(), "service": sklearn_expert()})).eval()

    def test_an_expert_outside_of_torch_is_named_where_its_gradient_is_needed(self, fuser):
        x = images()
        with pytest.raises(InputError, match="expert service passes no gradient to its input: its network is no torch"):
            IntegratedGradients(fuser).attribute(x, target=0)
        with pytest.raises(InputError, match="the expert of cat, dog passes no gradient"):
            sklearn_expert()(x.clone().requires_grad_()).sum().backward()

    def test_methods_that_need_none_of_it_work_beside_it(self, fuser):
        x, layer = images(), fuser.pool.members["a"].network.body
        assert LayerGradCam(fuser, layer).attribute(x, target=0).abs().sum() > 0
        windows = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
        assert Occlusion(fuser).attribute(x, target=0, **windows).abs().sum() > 0
        assert torch.equal(fuser(x), fuser(x.clone().requires_grad_()))

    def test_a_network_that_detaches_is_named(self):
        class Detached(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input.detach())

        with pytest.raises(InputError, match=r"its network \(Detached\) detaches it"):
            Expert(Detached(4, 2), classes=TWO)(torch.randn(3, 4, requires_grad=True)).sum().backward()

    def test_images_in_their_original_size_are_attributed_at_the_network(self):
        expert = image_expert(preprocess=ImagePreprocessing(8))
        raw = torch.randint(0, 256, (2, 3, 12, 14), generator=torch.Generator().manual_seed(0)).float()
        with pytest.raises(InputError, match="its preprocessing does not compute in torch; attribute the input of its"):
            IntegratedGradients(expert).attribute(raw, target=1)
        fuser = FoEFuserModule(ExpertPool({"a": expert})).eval()
        layered: list[Callable[..., Tensor]] = [expert, fuser]
        bare = [Bare(expert.network), lambda x: fuser.network(Bare(expert.network)(x))]
        prepared, black = (expert.preprocess(x) for x in (raw, torch.zeros_like(raw)))
        for ours, plain in zip(layered, bare, strict=True):
            method = LayerIntegratedGradients(ours, expert.network)
            found = method.attribute(raw, target=1, attribute_to_layer_input=True)
            same(found, IntegratedGradients(plain).attribute(prepared, baselines=black, target=1))


@pytest.mark.slow
class TestOtherLibraries:
    def test_grad_cam_and_integrated_gradients_of_image_experts(self, tmp_path):
        pytest.importorskip("timm")
        weights = models.torchvision_weights(tmp_path / "field.pth", "resnet18")
        experts = {
            "torchvision": TorchvisionExpert(
                "resnet18", checkpoint=weights, classes=models.CLASSES, preprocess=ImagePreprocessing(32)
            ),
            "timm": TimmExpert(models.timm_folder(tmp_path / "timm")),
            "transformers": TransformersExpert(models.vit_folder(tmp_path / "vit", models.CLASSES)),
        }
        layers = {
            "torchvision": experts["torchvision"].network.layer2,
            "timm": experts["timm"].network.layer2,
            "transformers": experts["transformers"].network.model.vit.embeddings.patch_embeddings.projection,
        }
        raw = torch.randint(0, 256, (2, 3, 40, 52), generator=torch.Generator().manual_seed(0)).float()
        fuser = FoEFuserModule(ExpertPool(experts)).eval()
        for name, expert in experts.items():
            bare, prepared, black = Bare(expert.network), expert.preprocess(raw), expert.preprocess(raw * 0)
            same(*(LayerGradCam(f, layers[name]).attribute(x, 1) for f, x in ((expert, raw), (bare, prepared))))
            method = LayerIntegratedGradients(expert, expert.network)
            found = method.attribute(raw, target=1, n_steps=4, attribute_to_layer_input=True)
            plain = IntegratedGradients(bare).attribute(prepared, black, target=1, n_steps=4)
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-3)
            assert plain.abs().sum() > 0
            assert LayerGradCam(fuser, layers[name]).attribute(raw, 1).abs().sum() > 0

    def test_embeddings_of_a_text_expert(self, tmp_path):
        expert = TransformersExpert(language_models.save_classifier(tmp_path / "bert"))
        layer = expert.network.model.get_input_embeddings()
        ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
        mask = torch.ones_like(ids)

        def ask(model: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda ids: model({"input_ids": ids, "attention_mask": mask.repeat(len(ids) // 2, 1)})

        found, expected = (
            LayerIntegratedGradients(ask(each), layer).attribute(ids, baselines=torch.ones_like(ids), target=1)
            for each in (expert, Bare(expert.network))
        )
        same(found, expected)
        assert found.shape[:2] == (2, 4)
