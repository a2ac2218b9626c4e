from functools import partial

import pytest
import torch
from helpers import language_models, tiny
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_fusion.errors import InputError
from lightning_fusion.generation.expert import GenerativeExpert, score_options, write
from lightning_fusion.generation.module import GenerativeExpertModule
from lightning_fusion.generation.networks import PointerGenerator


def module(**arguments) -> GenerativeExpertModule:
    torch.manual_seed(0)
    network = partial(PointerGenerator, hidden=16, dropout=0.1)
    return GenerativeExpertModule(
        network, **({"vocab_size": language_models.VOCABULARY, "max_new_tokens": 3} | arguments)
    )


def saved(tmp_path, name: str = "a", **arguments) -> str:
    path = str(tmp_path / f"{name}.ckpt")
    trainer = tiny.trainer(1)
    trainer.fit(
        module(trained_on=["a"], preprocessing={"tokenizer": "x"}, **arguments), datamodule=language_models.pairs()
    )
    trainer.save_checkpoint(path)
    return path


class TestTraining:
    def test_a_step_is_the_mean_negative_log_likelihood_of_texts_and_their_ends(self):
        batch = next(iter(language_models.pairs().train_dataloader()))
        made = module().eval()
        logs, total, count = made(batch.input, batch.input["target_ids"]), 0.0, 0
        for number, text in enumerate(batch.input["target_ids"]):
            wanted = [token for token in text.tolist() if token != 0] + [2]
            total -= sum(logs[number, place, token].item() for place, token in enumerate(wanted))
            count += len(wanted)
        made.log = lambda *_, **__: None
        assert float(made.training_step(batch, 0).detach()) == pytest.approx(total / count, rel=1e-5)

    @pytest.mark.slow
    def test_it_learns_to_write_and_is_tested_by_rouge(self):
        made = module(optimizer=partial(torch.optim.Adam, lr=1e-2))
        trainer, data = tiny.trainer(25), language_models.pairs(rows=60, batch_size=16)
        trainer.fit(made, datamodule=data)
        assert float(trainer.callback_metrics["val_token_accuracy"]) > 0.8
        (figures,) = trainer.test(made, datamodule=data, verbose=False)
        assert figures["test_rougeL"] > 0.8 and {"test_rouge1", "test_rouge2", "test_loss"} < set(figures)

    @pytest.mark.slow
    def test_a_resumed_run_ends_in_the_same_weights(self, tmp_path):
        data = language_models.pairs(rows=8)
        whole = module()  # seeds, as do the next two
        tiny.trainer(4).fit(whole, datamodule=data)
        half = module()
        keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
        tiny.trainer(4, enable_checkpointing=True, callbacks=[keep]).fit(half, datamodule=data)
        resumed = module()
        tiny.trainer(4).fit(resumed, datamodule=data, ckpt_path=str(tmp_path / "epoch=1.ckpt"))
        assert tiny.same(whole, half) and tiny.same(whole, resumed)

    def test_bf16(self):
        trainer = tiny.trainer(1, precision="bf16-mixed")
        trainer.fit(module(), datamodule=language_models.pairs())
        assert trainer.callback_metrics["val_loss"].isfinite()

    def test_missing_metadata_are_named(self):
        with pytest.raises(InputError, match="vocab_size is None"):
            module(vocab_size=None)
        with pytest.raises(InputError, match=r"has no input\['target_ids'\]"):
            tiny.trainer(1).fit(module(), datamodule=tiny.data())


class TestExpert:
    @pytest.mark.slow
    def test_a_checkpoint_knows_its_network(self, tmp_path):
        path = saved(tmp_path)
        expert = GenerativeExpert(checkpoint=path, cost=2.0)
        assert (expert.domains, expert.cost, expert.preprocessing) == (["a"], 2.0, {"tokenizer": "x"})
        trained = GenerativeExpertModule.load_from_checkpoint(path).network
        with expert.loaded() as network:
            assert tiny.same(network, trained) and not network.training
            assert not any(weights.requires_grad for weights in network.parameters())
        other = GenerativeExpert(checkpoint=saved(tmp_path, "b", max_new_tokens=4))
        assert expert.metadata()["fingerprint"] == GenerativeExpert(checkpoint=path).fingerprint != other.fingerprint

    def test_an_expert_that_is_built_has_the_fingerprint_of_its_weights(self):
        prints = [
            GenerativeExpert(network=partial(language_models.Counted, seed=seed)).fingerprint for seed in (0, 0, 1)
        ]
        assert prints[0] == prints[1] != prints[2]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "needs one of checkpoint, transformers and network"),
            ({"checkpoint": "a.ckpt", "transformers": "b"}, "needs one of"),
            ({"checkpoint": "none.ckpt"}, "found no file none"),
            ({"network": nn.Identity, "cost": -1}, "cost is -1"),
        ],
    )
    def test_wrong_metadata_are_named(self, arguments, message):
        with pytest.raises(InputError, match=message):
            GenerativeExpert(**arguments)

    def test_wrong_files_and_networks_are_named(self, tmp_path):
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(InputError, match="is none of a GenerativeExpertModule"):
            GenerativeExpert(checkpoint=str(tmp_path / "other.ckpt"))
        (tmp_path / "broken.ckpt").write_bytes(b"nothing")
        with pytest.raises(InputError, match="cannot be read weights-only"):
            GenerativeExpert(checkpoint=str(tmp_path / "broken.ckpt"))
        with (
            pytest.raises(InputError, match="Identity has no pad_id, generate and embed"),
            GenerativeExpert(network=nn.Identity).loaded(),
        ):
            pass


class TestProtocol:
    def test_what_has_no_answer_generates_and_embeds(self):
        class Plain(nn.Module):
            def __init__(self, network: PointerGenerator) -> None:
                super().__init__()
                self.generate, self.embed = network.generate, network.embed

        network = language_models.Counted(seed=0).eval()
        input = next(iter(language_models.pairs().test_dataloader())).input
        one, other = write(network, input, 4), write(Plain(network), input, 4)
        assert torch.equal(one[0], other[0])
        torch.testing.assert_close(one[1], other[1], atol=1e-5, rtol=0)

    def test_options_are_scored_by_their_likelihood(self):
        network = language_models.Counted(seed=1).eval()
        input = next(iter(language_models.pairs().test_dataloader())).input
        options = torch.tensor([[[5, 6], [7, 0]]]).repeat(4, 1, 1)
        found = score_options(network, input, options)
        logs = network(input, torch.full((4, 1), 7))
        torch.testing.assert_close(found[:, 1], (logs[:, 0, 7] + logs[:, 1, 2]).detach())
        torch.testing.assert_close(score_options(network, input, options, per_token=True)[:, 0], found[:, 0] / 3)
