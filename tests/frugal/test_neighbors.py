import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import frugal

from lightning_fusion.frugal import neighbors
from lightning_fusion.frugal.neighbors import SubsetNeighbors, smallest


@pytest.fixture(params=["compiled, float32 first", "float64"], scope="module", autouse=True)
def engine(request):
    """Every test of the search twice: as on a CPU, and as on other devices and for large numbers."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "float64":
            patch.setattr(neighbors, "_LARGEST", -1.0)
        yield request.param


def outputs(experts: int, rows: int, classes: int, kind: str, seed: int = 0) -> torch.Tensor:
    """(K, N, C) float32 outputs of which many are nearly or exactly alike."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(experts, rows, classes))
    if kind == "saturated":  # almost one-hot: distances of the order of float32's rounding error
        logits = 12 * np.eye(classes)[generator.integers(classes, size=(experts, rows))] + 0.5 * logits
    if kind == "saturated in float32":
        logits = 40 * np.eye(classes)[generator.integers(classes, size=(experts, rows))] + logits
    if kind == "duplicates":
        logits = logits[:, generator.integers(max(2, rows // 8), size=rows)]
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return torch.from_numpy(exponents / exponents.sum(-1, keepdims=True)).float()


def expected(known: torch.Tensor, points: torch.Tensor, subset: list[int], count: int, own=None) -> list[list[int]]:
    """By a stable sort of distances in float64, taken expert by expert."""
    found = []
    for place in range(points.shape[1]):
        table, point = known[subset].transpose(0, 1).flatten(1).numpy(), points[subset, place].flatten().numpy()
        found.append(frugal.nearest(table, point, count, None if own is None else int(own[place])))
    return found


@pytest.mark.parametrize("kind", ["plain", "saturated", "saturated in float32", "duplicates"])
@pytest.mark.parametrize("rows", [30, 64, 700])
def test_float32_outputs_have_the_neighbors_of_float64(kind, rows):
    known, points = outputs(5, rows, 3, kind), outputs(5, 40, 3, kind, seed=1)
    points[:, :10] = known[:, :10]
    additions = [(), (0,), (4,), (0, 4)]
    found, last = SubsetNeighbors(known).nearest([1, 3], additions, points, 20)
    assert found.shape == (4, 40, 20)
    for number, added in enumerate(additions):
        subset = sorted([1, 3, *added])
        right = expected(known, points, subset, 20)
        distances = (known[subset][:, right].double() - points[subset][:, :, None]).square().sum((0, 3))
        mine = (known[subset][:, found[number]].double() - points[subset][:, :, None]).square().sum((0, 3))
        # float64 itself rounds: where two distances differ in the last digit, either row may be taken
        torch.testing.assert_close(mine.sort(1).values, distances, rtol=1e-14, atol=1e-30)
        if kind in ("plain", "duplicates"):
            assert [sorted(row) for row in found[number].tolist()] == [sorted(row) for row in right]
        torch.testing.assert_close(last[number].double(), distances[:, -1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_a_row_is_no_neighbor_of_its_own(kind):
    known = outputs(3, 50, 4, kind)
    rows = torch.tensor([0, 49, 7, 7])
    found, _ = SubsetNeighbors(known).nearest([2], [(), (0,)], known[:, rows], 49, rows)
    for number, subset in enumerate([[2], [0, 2]]):
        assert [sorted(row) for row in found[number].tolist()] == [
            sorted(row) for row in expected(known, known[:, rows], subset, 49, rows)
        ]
        assert all(own not in row for own, row in zip(rows.tolist(), found[number].tolist(), strict=True))


@given(
    st.integers(1, 4), st.integers(2, 90), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32), st.data()
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_ties_go_to_the_lower_row(experts, rows, classes, bits, seed, data):
    generator = np.random.default_rng(seed)
    known, points = (
        torch.from_numpy(generator.integers(0, 2**bits + 1, (experts, count, classes)) / 2**bits) for count in (rows, 9)
    )
    subset = data.draw(st.lists(st.integers(0, experts - 1), min_size=1, unique=True))
    count = data.draw(st.integers(1, rows))
    found, _ = SubsetNeighbors(known).nearest(subset[:1], [tuple(subset[1:])], points, count)
    right = expected(known, points, sorted(subset), count)
    assert [sorted(row) for row in found[0].tolist()] == [sorted(row) for row in right]


@pytest.mark.parametrize("kind", ["plain", "saturated", "duplicates", "grid"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("base", [[2, 5], [7, 0, 3, 4, 6, 8]])
@pytest.mark.slow
def test_one_more_expert_among_many_rows(kind, own, base):
    known, points = outputs(10, 1000, 3, kind), outputs(10, 30, 3, kind, seed=1)
    if kind == "grid":
        known, points = (known * 4).round() / 4, (points * 4).round() / 4
    rows = torch.arange(0, 900, 30) if own else None
    if rows is not None:
        points = known[:, rows]
    extra = [(k,) for k in range(10) if k not in base]
    found, last = SubsetNeighbors(known).nearest(base, extra, points, 15, rows)
    for number, added in enumerate(extra):
        subset = sorted([*base, *added])
        right = expected(known, points, subset, 15, rows)
        distances = (known[subset][:, right].double() - points[subset][:, :, None]).square().sum((0, 3))
        mine = (known[subset][:, found[number]].double() - points[subset][:, :, None]).square().sum((0, 3))
        torch.testing.assert_close(mine.sort(1).values, distances, rtol=1e-14, atol=1e-30)
        if kind != "saturated":
            assert [sorted(row) for row in found[number].tolist()] == [sorted(row) for row in right]
        torch.testing.assert_close(last[number].double(), distances[:, -1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [30.0, 1000.0, 2.0**20])
def test_points_far_from_all_rows(scale):
    known = outputs(4, 300, 3, "duplicates")
    points = scale * outputs(4, 12, 3, "plain", seed=1)
    found, _ = SubsetNeighbors(known).nearest([0, 2], [(), (1,)], points, 20)
    for number, subset in enumerate([[0, 2], [0, 1, 2]]):
        rows = known[subset].transpose(0, 1).flatten(1)
        equal = (rows[:, None] == rows).all(2)
        for place, mine in enumerate(found[number].tolist()):
            distances = (rows.double() - points[subset, place].flatten()).square().sum(1)
            torch.testing.assert_close(distances[mine].max(), distances.sort().values[19], rtol=1e-12, atol=0)
            for row in mine:  # of equal rows the first ones
                assert set(equal[row, :row].nonzero().flatten().tolist()) <= set(mine)


@pytest.mark.parametrize("rows", [40, 64])
def test_all_rows_may_be_neighbors(rows):
    known, points = outputs(3, rows, 2, "plain"), outputs(3, 5, 2, "plain", seed=1)
    found, _ = SubsetNeighbors(known).nearest([1], [(), (0,)], points, rows)
    assert (found.sort(2).values == torch.arange(rows)).all()


def test_many_subsets_and_points_at_once_are_those_alone():
    known, points = outputs(6, 3000, 2, "plain"), outputs(6, 900, 2, "plain", seed=1)
    search = SubsetNeighbors(known)
    additions = [(1,), (2, 3), (4,), (5, 1)]
    together = search.nearest([0], additions, points, 15)[0].sort(2).values
    for number, added in enumerate(additions):
        alone = search.nearest([*added, 0], [()], points[:, 890:], 15)[0].sort(2).values
        assert torch.equal(together[number, 890:], alone[0])
        assert together[number, 890:].tolist() == [
            sorted(row) for row in expected(known, points[:, 890:], sorted([0, *added]), 15)
        ]


@pytest.mark.parametrize("kind", ["plain", "saturated", "duplicates", "grid"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.slow
def test_one_more_expert_for_many_sets_at_once(kind, apart, engine):
    known = outputs(6, 600, 3, "plain" if kind == "grid" else kind)
    if kind == "grid":
        known = (known * 4).round() / 4
    generator = torch.Generator().manual_seed(0)
    bases = torch.rand(80, 6, generator=generator) < 0.4
    bases[~bases.any(1), 0] = True
    own = torch.randint(600, (80,), generator=generator)
    asked = torch.zeros(80, dtype=torch.long)
    for some, found in SubsetNeighbors(known).supersets(bases, own, 9, apart, True):
        asked[some] += 1
        for question, rows in zip(some.tolist(), found, strict=True):
            for expert in range(6):
                subset = sorted({*bases[question].nonzero().flatten().tolist(), expert})
                if bases[question, expert]:
                    subset = bases[question].nonzero().flatten().tolist()
                place = own[question : question + 1]
                right = expected(known, known[:, place], subset, 9, place if apart else None)[0]
                if kind != "saturated":
                    assert sorted(rows[expert].tolist()) == sorted(right)
                apart_by = [
                    (known[subset][:, some_rows].double() - known[subset][:, place].double())
                    .square()
                    .sum((0, 2))
                    .sort()[0]
                    for some_rows in (rows[expert], right)
                ]
                torch.testing.assert_close(apart_by[0], apart_by[1], rtol=1e-14, atol=1e-30)
    assert (asked == (0 if engine == "float64" else 1)).all()


def test_no_points_have_no_neighbors():
    found, last = SubsetNeighbors(outputs(2, 20, 3, "plain")).nearest([0], [(), (1,)], torch.zeros(2, 0, 3), 5)
    assert (found.shape, last.shape) == ((2, 0, 5), (2, 0))


def test_coarse_products_change_nothing():
    known, points = outputs(4, 200, 3, "plain"), outputs(4, 20, 3, "plain", seed=1)
    fine = SubsetNeighbors(known).nearest([0, 1], [()], points, 10)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SubsetNeighbors(known).nearest([0, 1], [()], points, 10)[0].sort(2)[0], fine.sort(2)[0])


def test_where_products_may_be_coarser_more_rows_are_compared(monkeypatch):
    known = outputs(4, 200, 3, "plain")
    rough = known.bfloat16().float()
    search = SubsetNeighbors(known)
    if search.compiled:  # distances of rounded outputs, as a product in bfloat16 would give them
        search._narrow = SubsetNeighbors(rough)._narrow
        monkeypatch.setattr(neighbors, "_unit", lambda: 2.0**-8)
    found = search.nearest([0, 1], [()], known[:, :20], 10)[0][0]
    assert [sorted(row) for row in found.tolist()] == [
        sorted(row) for row in expected(known, known[:, :20], [0, 1], 10)
    ]


@given(st.integers(1, 5), st.integers(1, 2100), st.integers(0, 2**32), st.booleans(), st.data())
@settings(max_examples=80, deadline=None)
def test_smallest_are_the_first_of_a_sort(rows, width, seed, coarse, data):
    count = data.draw(st.integers(1, min(width, 60)))
    values = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed))
    if coarse:
        values = (values * 8).round()
        values[:, ::3] = float("inf")
    found, places = smallest(values, count)
    assert torch.equal(found, values.sort(1).values[:, :count])
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row)) == count for row in places.tolist())
