import numpy as np
import pytest
from helpers import generation_script, language_models, tiny

from lightning_fusion import ExpertOutputs
from lightning_fusion.errors import InputError
from lightning_fusion.generation.embeddings import EmbeddingsDataModule, _drawn, collect_embeddings


def collected(folder, experts=None, rows: int = 6, **arguments) -> ExpertOutputs:
    how = {"max_new_tokens": 3, "trainer": tiny.trainer()} | arguments
    return collect_embeddings(
        experts or generation_script.experts(), language_models.pairs(rows), folder / "store", **how
    )


class TestCollecting:
    @pytest.mark.parametrize("reads", ["both", "input"])
    def test_embeddings_are_those_of_each_text_alone(self, tmp_path, reads):
        store = collected(tmp_path, reads=reads, embedding_experts=["c", "a"], splits=["val"])
        assert list(store["val"].representations) == ["a", "c"] and store.names == language_models.DOMAINS
        data = language_models.pairs(6).rows("val")
        for name in ("a", "c"):
            network = generation_script.experts()[name].network().eval()
            for place in range(6):
                input = data[data.rows[place : place + 1]].input
                text = network.generate(input, 3) if reads == "both" else None
                found = store["val"].representations[name][place]
                np.testing.assert_allclose(found, network.embed(input, text)[0], atol=1e-5)
        assert store["val"].target.tolist() == [0, 1, 2] * 2

    @pytest.mark.slow
    def test_a_store_is_opened_and_nobody_is_asked(self, tmp_path):
        collected(tmp_path)
        language_models.Counted.reset()
        collected(tmp_path)
        assert language_models.Counted.calls == 0
        with pytest.raises(InputError, match=r"of other experts or settings \(a, b, c\); set overwrite"):
            collected(tmp_path, max_new_tokens=4)
        with pytest.raises(InputError, match="is from other data"):
            collected(tmp_path, rows=7)
        assert len(collected(tmp_path, rows=7, overwrite=True)["val"]) == 7

    def test_missing_embeddings_are_named(self, tmp_path):
        store = collected(tmp_path, embedding_experts=["a"])
        with pytest.raises(InputError, match="has no embeddings of b, c; set overwrite"):
            collected(tmp_path)
        with pytest.raises(InputError, match="has no embeddings of b; it has a"):
            EmbeddingsDataModule(store, ["a", "b"])

    def test_a_domain_without_an_expert_is_named(self, tmp_path):
        experts = generation_script.experts()
        del experts["c"]
        with pytest.raises(InputError, match=r"no expert was trained on the domain\(s\) c of 4 train row\(s\)"):
            collected(tmp_path, experts)

    def test_data_without_tokens_are_named(self, tmp_path):
        with pytest.raises(InputError, match="must be a dict of input_ids and attention_mask"):
            collect_embeddings(generation_script.experts(), tiny.data(), tmp_path / "a", trainer=tiny.trainer())


def test_one_of_several_owners_is_drawn_evenly_and_always_the_same():
    owned = np.tile([[True, False, True], [False, True, False]], (3000, 1))
    index = np.arange(6000)
    drawn = _drawn(owned, index)
    assert (drawn[1::2] == 1).all() and abs((drawn[::2] == 0).mean() - 0.5) < 0.05
    assert np.array_equal(_drawn(owned[100:], index[100:]), drawn[100:])


@pytest.mark.slow
def test_batches_hold_the_chosen_experts_side_by_side(tmp_path):
    store = collected(tmp_path)
    data = EmbeddingsDataModule(str(tmp_path / "store"), ["b", "a"], batch_size=5)
    batch = next(iter(data.val_dataloader()))
    both = [store["val"].representations[name][:5] for name in ("a", "b")]
    np.testing.assert_array_equal(batch.outputs, np.concatenate(both, 1))
    assert data.classes == data.expert_names == language_models.DOMAINS and data.representation_dims == {"a": 8, "b": 8}
