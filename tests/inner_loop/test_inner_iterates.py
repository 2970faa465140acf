"""The weights an inner loop reaches: those of torch.optim, for one task and for many; the module is untouched."""

import copy

import pytest
import torch
from small import DOUBLE, loss, network, tasks
from torch import nn
from torch.func import functional_call, vmap

from diffopt_lib import SGD, Adam, inner_loop

OPTIMIZERS = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (SGD(0.05, 0.8), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
    "decay": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3)),
    "adam": (Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
    "adam with decay": (Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.3)),
}


def trained(module, data, make_optimizer, steps):
    """Weights after training a copy with torch.optim."""
    module = copy.deepcopy(module)
    optimizer = make_optimizer(module.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss(module, data).backward()
        optimizer.step()
    return {name: p.detach() for name, p in module.named_parameters()}


def assert_same(fast, expected):
    assert list(fast) == list(expected)
    for name, w in expected.items():
        torch.testing.assert_close(fast[name].detach(), w)


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_of_torch_optim(name, gradient, generator, device):
    module, data = network(device=device), tasks(generator, device=device)
    optimizer, theirs = OPTIMIZERS[name]
    decay = 0.3 if "decay" in name else 0.0
    fast = inner_loop(module, loss, data, optimizer, 15, gradient=gradient, weight_decay=decay)
    assert_same(fast, trained(module, data, theirs, 15))


def test_truncated_and_implicit_reach_the_same_weights_as_unroll(generator):
    module, data = network(), tasks(generator)
    full = inner_loop(module, loss, data, SGD(0.1), 12, prox=1.0)
    cut = inner_loop(module, loss, data, SGD(0.1), 12, prox=1.0, gradient="truncated", truncate=3)
    implicit = inner_loop(module, loss, data, SGD(0.1), 12, prox=1.0, gradient="implicit", on_failure="return")
    assert_same(cut, {name: w.detach() for name, w in full.items()})
    assert_same(implicit, {name: w.detach() for name, w in full.items()})


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_a_batch_of_tasks_is_each_task_alone(gradient, generator, device):
    module, data = network(device=device), tasks(generator, 2, 3, device=device)
    options = {"prox": 1.0, "gradient": gradient} | ({"on_failure": "return"} if gradient == "implicit" else {})
    fast = inner_loop(module, loss, data, Adam(0.05), 7, batch_dims=2, **options)
    assert fast["0.weight"].shape == (2, 3, 3, 2)
    values = fast.evaluate(loss, data)
    for i in range(2):
        for j in range(3):
            alone = inner_loop(module, loss, tuple(t[i, j] for t in data), Adam(0.05), 7, **options)
            assert_same({name: w[i, j] for name, w in fast.items()}, {name: w.detach() for name, w in alone.items()})
            torch.testing.assert_close(values[i, j], alone.evaluate(loss, tuple(t[i, j] for t in data)))


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
@pytest.mark.parametrize("batch", [(1,), (1, 1)])
def test_a_batch_of_one_task_is_the_task(batch, gradient, generator):
    """It takes another way, without vmap."""
    module, data = network(), tasks(generator)
    options = {"prox": 1.0, "gradient": gradient} | ({"on_failure": "return"} if gradient == "implicit" else {})
    x, y, weights = (t.clone().requires_grad_() for t in data)
    alone = inner_loop(module, loss, (x, y, weights), Adam(0.05), 7, **options)
    batched = tuple(t.reshape(batch + t.shape) for t in (x, y, weights))
    fast = inner_loop(module, loss, batched, Adam(0.05), 7, batch_dims=len(batch), **options)
    assert all(w.shape == batch + alone[name].shape for name, w in fast.items())
    values = fast.evaluate(loss, batched), alone.evaluate(loss, (x, y, weights))
    assert values[0].shape == batch
    leaves = [x, y, weights, *module.parameters()]
    slopes = [
        torch.autograd.grad(value.sum() + f["0.bias"].sum(), leaves)
        for value, f in zip(values, (fast, alone), strict=True)
    ]
    torch.testing.assert_close(*slopes, atol=1e-9, rtol=1e-7)
    shapes = fast.evaluate(lambda predict, data: {"out": predict(data[0]), "name": "task"}, batched)
    assert shapes["out"].shape == (*batch, 6, 1) and shapes["name"] == "task"


def test_the_result_is_what_functional_call_and_vmap_take(generator):
    module, (x, y, weights) = network(), tasks(generator, 4)
    fast = inner_loop(module, loss, (x, y, weights), SGD(0.1), 3, batch_dims=1)
    by_vmap = vmap(lambda w, x: functional_call(module, w, (x,)))(fast, x)
    torch.testing.assert_close(by_vmap, fast.evaluate(lambda predict, x: predict(x), x))
    alone = inner_loop(module, loss, (x[0], y[0], weights[0]), SGD(0.1), 3)
    torch.testing.assert_close(functional_call(module, alone, (x[0],)), by_vmap[0])


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint"])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_loop_goes_on_where_it_stopped(name, gradient, generator):
    module, data = network(), tasks(generator, 2)
    optimizer = OPTIMIZERS[name][0]
    options = {"batch_dims": 1, "prox": 0.7, "gradient": gradient}
    whole = inner_loop(module, loss, data, optimizer, 9, **options)
    half = inner_loop(module, loss, data, optimizer, 4, **options)
    rest = inner_loop(module, loss, data, optimizer, 5, start=half, **options)
    assert rest.steps == 9
    assert_same(rest, {name: w.detach() for name, w in whole.items()})
    through = [torch.autograd.grad(f["0.weight"].sum(), list(module.parameters())) for f in (whole, rest)]
    torch.testing.assert_close(*through)
    cut = inner_loop(module, loss, data, optimizer, 5, start=half.detach(), **options)
    assert not cut["0.weight"].requires_grad


def test_a_start_of_ones_own(generator):
    module, data = network(), tasks(generator, 2)
    start = {name: torch.randn(2, *p.shape, dtype=DOUBLE, generator=generator) for name, p in module.named_parameters()}
    start["0.bias"] = start["0.bias"][0].requires_grad_()  # shared by the tasks
    fast = inner_loop(module, loss, data, SGD(0.1), 3, start=start, batch_dims=1)
    for i in range(2):
        mine = copy.deepcopy(module)
        mine.load_state_dict({name: (w if name == "0.bias" else w[i]).detach() for name, w in start.items()})
        expected = trained(mine, tuple(t[i] for t in data), lambda p: torch.optim.SGD(p, lr=0.1), 3)
        assert_same({name: w[i] for name, w in fast.items()}, expected)
    assert torch.autograd.grad(fast["2.bias"].sum(), start["0.bias"])[0].abs().sum() > 0


def test_parts_have_optimizers_of_their_own(generator):
    """The longest key wins; what has none stays, out of the result, and still gets its gradient."""
    module, data = network(), tasks(generator)
    fast = inner_loop(module, loss, data, {"2": Adam(0.05), "2.bias": SGD(0.3, 0.5)}, 6)
    assert set(fast) == {"2.weight", "2.bias"}
    theirs = copy.deepcopy(module)
    adam, sgd = torch.optim.Adam([theirs[2].weight], lr=0.05), torch.optim.SGD([theirs[2].bias], lr=0.3, momentum=0.5)
    for _ in range(6):
        theirs.zero_grad()
        loss(theirs, data).backward()
        adam.step()
        sgd.step()
    torch.testing.assert_close(fast["2.weight"], theirs[2].weight)
    torch.testing.assert_close(fast["2.bias"], theirs[2].bias)
    assert torch.autograd.grad(fast.evaluate(loss, data), module[0].weight)[0].abs().sum() > 0


def test_decay_and_prox_of_parts(generator):
    """A decay of the body alone is the objective with that term written out."""
    module, data = network(), tasks(generator)
    decayed = inner_loop(module, loss, data, SGD(0.1), 8, weight_decay={"0": 0.4, "0.bias": 0.0}, prox={"2": 0.6})
    start = {name: p.detach().clone() for name, p in module.named_parameters()}

    def written_out(predict, data):
        w = predict.weights
        pull = sum((w[name] - start[name]).square().sum() for name in ("2.weight", "2.bias"))
        return loss(predict, data) + 0.2 * w["0.weight"].square().sum() + 0.3 * pull

    assert_same(decayed, {k: w.detach() for k, w in inner_loop(module, written_out, data, SGD(0.1), 8).items()})


def test_decay_and_prox_of_each_task(generator):
    module, data = network(), tasks(generator, 3)
    decay, prox = torch.tensor([0.0, 0.2, 0.9], dtype=DOUBLE), torch.tensor([0.5, 0.0, 2.0], dtype=DOUBLE)
    fast = inner_loop(module, loss, data, SGD(0.1), 5, weight_decay=decay, prox=prox, batch_dims=1)
    for i in range(3):
        alone = tuple(t[i] for t in data)
        expected = inner_loop(module, loss, alone, SGD(0.1), 5, weight_decay=decay[i].item(), prox=prox[i].item())
        assert_same({name: w[i] for name, w in fast.items()}, {name: w.detach() for name, w in expected.items()})


class Wrapped(nn.Module):
    """Batch normalisation, dropout, a counter among the buffers, shared weights and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(2, 4).requires_grad_(False)
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.3)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.first.weight
        self.head = nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        x = self.norm(self.first(self.frozen(x).tanh()))
        return self.head(self.drop(self.again(x).tanh()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("gradient", ["unroll", "checkpoint"])
def test_the_module_is_untouched(gradient, batch, training, generator):
    module = Wrapped().double().train(training)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    data = tasks(generator, *batch)
    fast = inner_loop(module, loss, data, SGD(0.1), 4, batch_dims=len(batch), gradient=gradient)
    fast.evaluate(loss, data).sum().backward()
    for name, t in module.state_dict().items():
        assert torch.equal(t, before[name]), name
    assert "frozen.weight" not in fast and "again.weight" not in fast  # the latter is first.weight
    assert module.frozen.weight.grad is None
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.requires_grad)


def test_dropout_draws_the_same_numbers_again_in_the_second_forward_pass(generator):
    """Otherwise checkpointing would differentiate another function than the one that was computed."""
    module, data = Wrapped().double(), tasks(generator, 3)
    found = []
    for gradient in ("unroll", "checkpoint"):
        torch.manual_seed(5)
        fast = inner_loop(module, loss, data, SGD(0.2), 9, batch_dims=1, gradient=gradient)
        found.append(torch.autograd.grad(fast["head.weight"].sin().sum(), module.first.weight)[0])
        after = torch.rand(3)
        torch.manual_seed(5)
        inner_loop(module, loss, data, SGD(0.2), 9, batch_dims=1, gradient="unroll")
        assert torch.equal(after, torch.rand(3))  # and the generator is left where the plain loop leaves it
    torch.testing.assert_close(*found)


def test_batch_normalisation_in_evaluation_mode_uses_the_running_statistics(generator):
    module = Wrapped().double().eval()
    module.norm.running_mean.normal_(generator=generator)
    data = tasks(generator)
    theirs = copy.deepcopy(module)
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss(theirs, data).backward()
        optimizer.step()
    fast = inner_loop(module, loss, data, SGD(0.1), 4)
    for name, w in fast.items():
        torch.testing.assert_close(w, theirs.get_parameter(name))


def test_an_optimizer_of_ones_own(generator):
    """Normalised gradient descent: the update sees all weights of a task as one vector."""

    class Normalised:
        def init(self, y):
            return ()

        def update(self, k, g, state):
            return -0.1 * g / g.norm(dim=-1, keepdim=True), ()

    module, data = network(), tasks(generator, 2)
    fast = inner_loop(module, loss, data, Normalised(), 1, batch_dims=1)
    for i in range(2):
        moved = torch.cat([(fast[name][i] - p).flatten() for name, p in module.named_parameters()])
        torch.testing.assert_close(moved.norm(), torch.tensor(0.1, dtype=DOUBLE))


def test_no_steps_return_the_start_with_its_gradient(generator):
    module, data = network(), tasks(generator, 2)
    fast = inner_loop(module, loss, data, SGD(0.1), 0, batch_dims=1)
    torch.testing.assert_close(fast["0.weight"], module[0].weight.expand(2, 3, 2))
    assert torch.equal(
        torch.autograd.grad(fast["0.weight"].sum(), module[0].weight)[0], torch.full((3, 2), 2.0).double()
    )


def test_no_tasks_give_no_weights():
    module = network()
    empty = (torch.zeros(0, 6, 2).double(), torch.zeros(0, 6, 1).double(), torch.zeros(0, 6).double())
    assert inner_loop(module, loss, empty, SGD(0.1), 2, batch_dims=1)["0.weight"].shape == (0, 3, 2)


def test_float32_stays_float32_also_under_autocast(generator, device):
    data = tasks(generator, 2, device=device, dtype=torch.float32)
    fast = inner_loop(network(torch.float32, device), loss, data, Adam(0.05), 10, batch_dims=1)
    exact = inner_loop(network(device=device), loss, tuple(t.double() for t in data), Adam(0.05), 10, batch_dims=1)
    with torch.autocast(device, dtype=torch.bfloat16):
        again = inner_loop(network(torch.float32, device), loss, data, Adam(0.05), 10, batch_dims=1)
    for name, w in fast.items():
        assert w.dtype == torch.float32
        torch.testing.assert_close(w.double(), exact[name], rtol=1e-3, atol=1e-4)
        assert torch.equal(w, again[name])


def test_vmap_of_the_whole_loop(generator):
    module, data = network(), tasks(generator, 3)
    by_vmap = vmap(lambda *data: dict(inner_loop(module, loss, data, Adam(0.05), 4)))(*data)
    assert_same(
        by_vmap, {k: w.detach() for k, w in inner_loop(module, loss, data, Adam(0.05), 4, batch_dims=1).items()}
    )
