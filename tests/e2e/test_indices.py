"""An index is refused exactly where eager PyTorch refuses it, by whatever operator, wherever the index comes from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.e2e.running import Direct, Method, lower
from zeropoint.errors import RuntimeFailure, Unsupported
from zeropoint.runtime.library import last_error

N, WIDTH, COUNT = 5, 4, 3
TABLE = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(0))
NEW = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(1))
HEADS = torch.randn(1, 2, N, WIDTH, generator=torch.Generator().manual_seed(2))
put = torch.ops.aten.index_put.default


def rows(index: Tensor) -> Tensor:
    """The same index for every column."""
    return index.unsqueeze(-1).expand(COUNT, WIDTH)


READS: dict[str, Callable[[Tensor], Tensor]] = {
    "embedding": lambda i: nn.functional.embedding(i, TABLE.clone()),
    "embedding_padding": lambda i: nn.functional.embedding(i, TABLE.clone(), padding_idx=1),
    "index_select": lambda i: TABLE.index_select(0, i),
    "gather": lambda i: TABLE.gather(0, rows(i)),
    "index": lambda i: TABLE[i],
    "index_inner": lambda i: TABLE.t()[:, i],
    "index_outer_of_two": lambda i: TABLE[i, torch.tensor([0, 3, 1])],
    "index_inner_of_two": lambda i: TABLE.t()[torch.tensor([0, 3, 1]), i],
    "take_along_dim": lambda i: torch.take_along_dim(TABLE, rows(i), 0),
}
WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "index_copy": lambda i: TABLE.index_copy(0, i, NEW),
    "index_put": lambda i: put(TABLE, [i], NEW),
    "index_put_inner": lambda i: put(TABLE.t(), [None, i], NEW.t()),
    "index_put_two": lambda i: put(TABLE.t().contiguous(), [torch.tensor([0, 3, 1]), i], NEW[:, 0]),
    "scatter": lambda i: TABLE.scatter(0, rows(i), NEW),
    "scatter_value": lambda i: TABLE.scatter(0, rows(i), 2.0),
}
# How an index comes to be `i`, and what of the input that is.
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "input": lambda i: i,
    "int32": lambda i: i.to(torch.int64),
    "part": lambda i: i.view(COUNT + 1, 2)[1:, 0],
    "counted_from": lambda i: i + torch.arange(COUNT),
    "less_one": lambda i: (i + 1).unsqueeze(0).squeeze(0),
    "from_the_end": lambda i: N - 1 - i,
    "wrapped": lambda i: torch.where(i < 0, i + N, i),
    "computed": lambda i: i * 2 - i,
    "counted_from_computed": lambda i: (i * 2 - i) + torch.arange(COUNT),
}


class Indexed(nn.Module):
    def __init__(self, use: Callable[[Tensor], Tensor], form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.use, self.form = use, form

    def forward(self, given: Tensor) -> Tensor:
        return self.use(self.form(given)) + 0.0


def given_for(form: str, index: list[int]) -> Tensor:
    """The input that gives this index, or one that begins with its first."""
    i = torch.tensor(index)
    match form:
        case "int32":
            return i.to(torch.int32)
        case "part":
            return torch.stack([torch.tensor([99, *index]), torch.full((COUNT + 1,), -77)], 1).flatten()
        case "counted_from" | "counted_from_computed":
            return i[:1]
        case "less_one":
            return i - 1
        case "from_the_end":
            return N - 1 - i
        case _:
            return i


def lowered(model: nn.Module, *inputs: Tensor, core: bool = False) -> Direct:
    program = torch.export.export(model, inputs)
    return Direct(program.run_decompositions() if core else program.run_decompositions({}))


def answer(run: Callable[..., Tensor | Sequence[Tensor]], *inputs: Tensor) -> Tensor | None:
    """The one output; None where it is refused."""
    try:
        found = run(*inputs)
        return found if isinstance(found, Tensor) else found[0]
    except (IndexError, RuntimeError, RuntimeFailure):
        return None


VALUES = (0, N - 1, N, -1, -N, -N - 1, 2**31 - 1, -(2**31), 2 * N)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_refused_where_eager_refuses(name: str, form: str) -> None:
    model = Indexed({**READS, **WRITES}[name], FORMS[form])
    run = lowered(model, given_for(form, [2, 0, 1]), core=name == "take_along_dim")
    text = (
        r"^call\[\d+\] .*, computed on the device, is " if "computed" in form else r"^input\[0\] given: element \d+ is "
    )
    exact = form not in ("computed", "counted_from_computed")
    assert ("check_index" in [call.kernel for call in run.program.calls]) != (exact or name == "take_along_dim")
    refused = 0
    for place in range(COUNT):
        for value in VALUES if name != "take_along_dim" else (0, N, -1, 7 * N):  # it takes all; 32 bits hold not all
            index = [1, 2, 3]
            index[place] = value
            given = given_for(form, index)
            wanted = answer(model, given)
            found = answer(run, given)
            assert (wanted is None) == (found is None), f"{index}: eager {wanted}, here {found}"
            if (
                wanted is not None and found is not None and len({*index}) == COUNT
            ):  # of two writes either may be the last
                assert torch.equal(found, wanted), index
            if found is None:
                refused += 1
                with pytest.raises(RuntimeFailure, match=text):
                    run(given)
    assert refused or name == "take_along_dim"


class Cache(nn.Module):
    """k is written at the positions and read whole."""

    def __init__(self, write: str, state: Tensor) -> None:
        super().__init__()
        self.write = write
        self.register_buffer("k", state.clone())

    def forward(self, at: Tensor, new: Tensor) -> Tensor:
        axis = self.k.dim() - 2
        if self.write == "index_copy":
            self.k.index_copy_(axis, at, new)
        else:
            self.k[:, :, at] = new
        return self.k * 2


@pytest.mark.parametrize("write", ["index_copy", "index_put"])
def test_what_the_documented_call_refuses(write: str) -> None:
    """A place counted from the end is one for x[:, :, i] = y, and none for index_copy."""
    model, new = Cache(write, HEADS), torch.ones(1, 2, 1, WIDTH)
    run = Method(lower(torch.export.export(copy.deepcopy(model), (torch.tensor([0]), new)))[0])
    for place in (0, N - 1, N, -1, -N, -N - 1, 1):
        before = model.k.clone()
        wanted, found = (answer(item, torch.tensor([place]), new * place) for item in (model, run))
        assert (wanted is None) == (found is None), f"{place}: eager {wanted}, here {found}"
        if found is None or wanted is None:
            model.k.copy_(before)
        else:
            assert torch.equal(found, wanted), place


@pytest.mark.parametrize("write", ["index_copy", "index_put"])
@pytest.mark.parametrize("tokens", [1, COUNT])
def test_a_refused_call_leaves_states_as_they_were(write: str, tokens: int) -> None:
    model = Cache(write, HEADS)
    new = torch.randn(1, 2, tokens, WIDTH, generator=torch.Generator().manual_seed(3))
    run = lowered(copy.deepcopy(model), torch.arange(tokens), new)
    assert run.program.checks[0].what == "places along dimension 2 of k"
    for value in (N - 1, N, N - 2, -1, -N - 1, 2**31 - 1, N - 1):
        at = torch.arange(tokens)
        at[-1] = value
        before = model.k.clone()
        wanted = answer(model, at, new * value)
        found = answer(run, at, new * value)
        assert (wanted is None) == (found is None), f"{at}: eager {wanted}, here {found}"
        if wanted is None:
            model.k.copy_(before)  # eager PyTorch writes what comes before the bad one
        if found is not None:
            assert torch.equal(found, model.k * 2)


class Counter(nn.Module):
    """Its own position, a state, says where the next token goes."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.register_buffer("k", torch.zeros(4, 2))
        self.register_buffer("n", torch.tensor([first]))

    def forward(self, x: Tensor) -> Tensor:
        self.k.index_copy_(0, self.n, x)
        self.n.add_(1)
        return self.k + 0.0


@pytest.mark.parametrize("first", [3, -1])
def test_a_position_that_is_a_state(first: int) -> None:
    run = lowered(Counter(first), torch.ones(1, 2))
    if first == 3:
        assert run(torch.ones(1, 2))[0][3].tolist() == [1, 1]
    with pytest.raises(RuntimeFailure, match=r"index_copy: places along dimension 0 of k: element 0, computed on"):
        run(torch.full((1, 2), 5.0))
    tensors = {tensor.name: index for index, tensor in enumerate(run.program.tensors)}
    found = torch.from_numpy(run._loaded.read_tensor(tensors["k"]))
    assert found.tolist() == [[0, 0], [0, 0], [0, 0], [1, 1] if first == 3 else [0, 0]], "a bad index is not written by"


def test_a_constant_outside_is_refused_at_export() -> None:
    model = Indexed(lambda i: TABLE[torch.tensor([0, N])] + i, FORMS["input"])
    with pytest.raises(Unsupported, match=r"^index: index 5; places along dimension 0 of .* are -5 to 4$"):
        lowered(model, torch.tensor([1]))


def test_what_can_be_proven_costs_nothing() -> None:
    def use(i: Tensor) -> Tensor:
        best = (NEW * i.unsqueeze(-1)).argmax(-1)
        places = (torch.arange(COUNT), best, i.remainder(N), i.clamp(0, 2), (i > 0).long())
        return torch.stack([TABLE[place] for place in places])

    program = lowered(Indexed(use, FORMS["input"]), torch.tensor([7, 0, -3])).program
    assert program.checks == ()
    assert program.faults == -1


class Stale(nn.Module):
    def forward(self, ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.embedding(ids, TABLE.clone()) * 2, torch.tanh(x) * 100


def test_executorch_sees_an_error_and_goes_on() -> None:
    ids, x = torch.tensor([[1, 4]]), torch.randn(1, 2, 64)
    run = Method(lower(torch.export.export(Stale(), (ids, x)))[0])
    good = run(ids, x)
    for bad in (5, -1):
        with pytest.raises(RuntimeError, match="0x12"):
            run(torch.tensor([[1, bad]]), x)
        again = run(ids, x)
        assert all(torch.equal(a, b) for a, b in zip(good, again, strict=True))
        assert torch.equal(again[0], Stale()(ids, x)[0])


def test_one_hot_holds_what_it_asserts() -> None:
    """Export makes assertions of the classes' bounds: of an input, and of classes that are computed."""

    class Classes(nn.Module):
        def forward(self, i: Tensor, j: Tensor) -> Tensor:
            return nn.functional.one_hot(i, N) + nn.functional.one_hot(j * 2 - j, N)

    good = torch.tensor([0, N - 1])
    run = Method(lower(torch.export.export(Classes(), (good, good.clone())))[0])  # one tensor twice would be one input
    assert torch.equal(run(good, good)[0], Classes()(good, good))
    for bad in (N, -1):
        for inputs in ((good, torch.tensor([bad, 0])), (torch.tensor([0, bad]), good)):
            with pytest.raises(RuntimeError):
                Classes()(*inputs)
            with pytest.raises(RuntimeError, match="0x12"):
                run(*inputs)
    assert "values by the assertion" in last_error()
    assert torch.equal(run(good, good)[0], Classes()(good, good))
