import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_fusion.encoders.text import masked_mean
from lightning_fusion.errors import InputError
from lightning_fusion.generation.networks import PointerGenerator, append_end, mix_copy

VOCABULARY = 20


def network(seed: int = 0, **arguments) -> PointerGenerator:
    torch.manual_seed(seed)
    made = PointerGenerator(VOCABULARY, **({"hidden": 8} | arguments)).eval()
    for value in made.parameters():
        nn.init.normal_(value, std=0.7)  # far from uniform, so that texts differ ...
    made.bias.data[2] = 2.0  # ... and end
    return made


def batch(lengths: list[int], seed: int = 0, width: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (len(lengths), max(*lengths, width)), generator=generator)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def row(input: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    length = max(1, int(input["attention_mask"][number].sum()))
    return {name: value[number : number + 1, :length] for name, value in input.items()}


class TestCopyHead:
    def test_a_distribution_worked_by_hand(self):
        # one step; words 0..3; the input says 2 3 2 with attention .5 .3 .2; p_gen = .4
        found = mix_copy(
            torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]),
            torch.tensor([[[0.5, 0.3, 0.2]]]),
            torch.tensor([[[0.4]]]),
            torch.tensor([[2, 3, 2]]),
        )
        np.testing.assert_allclose(found[0, 0], [0.04, 0.08, 0.12 + 0.6 * 0.7, 0.16 + 0.6 * 0.3], rtol=1e-6)

    def test_forward_is_the_equations_in_numpy(self):
        net, input = network(), batch([4])
        target = torch.tensor([[5, 9]])
        found = net(input, target).detach().numpy()[0]
        parts = {name: value.detach().double().numpy() for name, value in net.named_parameters()}
        ids = input["input_ids"][0].numpy()

        def gru(vectors: np.ndarray, state: np.ndarray, which: str, suffix: str) -> np.ndarray:
            wi, wh, bi, bh = (parts[f"{which}.{kind}_l0{suffix}"] for kind in _GRU)
            states = []
            for vector in vectors:
                (ri, zi, ni), (rh, zh, nh) = np.split(wi @ vector + bi, 3), np.split(wh @ state + bh, 3)
                reset, update = sigmoid(ri + rh), sigmoid(zi + zh)
                state = (1 - update) * np.tanh(ni + reset * nh) + update * state
                states.append(state)
            return np.array(states)

        read = parts["embedding.weight"][ids]
        forth, back = gru(read, np.zeros(4), "encoder", ""), gru(read[::-1], np.zeros(4), "encoder", "_reverse")
        states = np.concatenate([forth, back[::-1]], 1)
        first = np.tanh(parts["bridge.weight"] @ np.concatenate([forth[-1], back[-1]]) + parts["bridge.bias"])
        tokens = parts["embedding.weight"][[1, 5, 9]]
        for step, hidden in enumerate(gru(tokens, first, "decoder", "")):
            attention = softmax(states @ (parts["score_states.weight"] @ hidden))
            context = attention @ states
            out = np.tanh(parts["join.weight"] @ np.concatenate([hidden, context]) + parts["join.bias"])
            gate = sigmoid(
                parts["gate.weight"][0] @ np.concatenate([hidden, context, tokens[step]]) + parts["gate.bias"]
            )
            expected = gate * softmax(parts["embedding.weight"] @ out + parts["bias"])
            for place, word in enumerate(ids):
                expected[word] += (1 - gate[0]) * attention[place]
            np.testing.assert_allclose(np.exp(found[step]), expected, atol=1e-5)


_GRU = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def softmax(value: np.ndarray) -> np.ndarray:
    exponents = np.exp(value - value.max())
    return exponents / exponents.sum()


class TestPadding:
    @pytest.mark.parametrize("seed", range(3))
    def test_a_text_is_read_and_written_alike_alone_and_beside_a_long_one(self, seed):
        net, input = network(seed), batch([3, 30, 1, 12], seed, width=40)
        texts, embeddings = net.answer(input, max_new_tokens=12)
        assert len({int((text != 0).sum()) for text in texts}) > 1  # rows end apart
        for number in range(4):
            alone, embedding = net.answer(row(input, number), max_new_tokens=12)
            text = texts[number][texts[number] != 0]
            assert text.tolist() == alone[0].tolist()
            torch.testing.assert_close(embedding[0], embeddings[number], atol=1e-5, rtol=0)

    def test_embed_gives_what_answer_read_while_writing(self):
        net, input = network(1), batch([3, 9, 5])
        for tokens in (2, 12):
            text, embedding = net.answer(input, tokens)
            assert text.shape[1] <= tokens
            torch.testing.assert_close(net.embed(input, text), embedding, atol=1e-5, rtol=0)

    def test_without_a_text_the_embedding_is_of_the_input_alone(self):
        net, input = network(), batch([3, 7])
        states = net._encode(input)[0]
        torch.testing.assert_close(net.embed(input), masked_mean(states, input["attention_mask"]))

    def test_a_row_without_tokens_is_no_crash(self):
        net = network()
        text, embedding = net.answer(batch([0, 4]), 5)
        assert len(text) == 2 and embedding.isfinite().all()


class TestWriting:
    def test_greedy_takes_the_most_likely_word_each_time(self):
        net, input = network(2), batch([6])
        text = net.generate(input, 8)
        best = net(input, text)[:, :, :].clone()
        best[:, :, [0, 1]] = -torch.inf
        assert best.argmax(2)[0, : text.shape[1]].tolist() == text[0].tolist()

    @pytest.mark.slow
    def test_it_learns_to_copy_words_it_has_never_written(self):
        torch.manual_seed(0)
        net = PointerGenerator(VOCABULARY, hidden=32, dropout=0.0)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(150):  # write the first two words; words above 14 are never seen
            ids = torch.randint(3, 15, (32, 5))
            labels = append_end(ids[:, :2], 0, 2)
            logs = net({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids[:, :2])
            loss = nn.functional.nll_loss(logs.flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ids = torch.randint(3, 15, (64, 5))
        ids[:, 0] = torch.randint(15, VOCABULARY, (64,))
        written = net.eval().generate({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 2)
        assert (written[:, 0] == ids[:, 0]).float().mean() > 0.8


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"input_ids": torch.tensor([[3, VOCABULARY]])}, "found token 20; the network's vocabulary has 20 tokens"),
            ({"input_ids": torch.tensor([[-1, 3]])}, "found token -1"),
            ({"attention_mask": torch.tensor([[0, 1]])}, "padding on the right"),
            ({"attention_mask": torch.tensor([[1]])}, "expected one shape"),
        ],
    )
    def test_it_is_named(self, change, message):
        with pytest.raises(InputError, match=message):
            network().generate(batch([2]) | change, 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"hidden": 7}, "hidden is 7"), ({"end_id": 20}, "end_id 20"), ({"start_id": 0}, "three tokens")],
    )
    def test_so_are_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            PointerGenerator(VOCABULARY, **arguments)
