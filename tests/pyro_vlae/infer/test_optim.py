"""JointOptim against stock Pyro optimizers, its average, its guard and its saved state."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import constraints

from pyro_vlae.infer.optim import JointOptim

X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)


def model(x):
    weight = pyro.param("weight", lambda: torch.full((2, 2), 0.3, dtype=torch.float64))
    bias = pyro.param("a_bias", lambda: torch.zeros(2, dtype=torch.float64))
    with pyro.plate("images", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight + bias, 0.5).to_event(1), obs=x)


def guide(x):
    scale = pyro.param(
        "scale", lambda: torch.full((2,), 0.7, dtype=torch.float64), constraint=constraints.positive
    )
    with pyro.plate("images", len(x)):
        pyro.sample("z", dist.Normal(x, scale).to_event(1))


def run(optimizer, steps, seed=1, restart=True):
    if restart:
        pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    history = []
    for _ in range(steps):
        svi.step(X)
        history.append(values())
    return history


def values():
    return {n: p.detach().clone() for n, p in pyro.get_param_store().named_parameters()}


def assert_same(left, right, atol=0.0):
    assert left.keys() == right.keys() and left
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("constructor", "stock", "args"),
    [
        (torch.optim.Adamax, pyro.optim.Adamax, {"lr": 2e-2}),
        (torch.optim.Adam, pyro.optim.Adam, {"lr": 1e-2, "betas": (0.8, 0.99)}),
        (torch.optim.Adam, pyro.optim.Adam, {"lr": 1e-2, "fused": True}),
        (torch.optim.SGD, pyro.optim.SGD, {"lr": 1e-3, "momentum": 0.9}),
    ],
)
def test_moves_parameters_as_stock_optimizers_do(constructor, stock, args):
    ours = run(JointOptim(constructor, args), 7)
    theirs = run(stock(args), 7)
    for left, right in zip(ours, theirs, strict=True):
        assert_same(left, right, atol=1e-12)
    assert all((ours[0][n] != ours[-1][n]).all() for n in ours[0])


def test_foreach_is_the_default_and_can_be_turned_off():
    def chosen(**args):
        optimizer = JointOptim(torch.optim.Adamax, args)
        run(optimizer, 1)
        return optimizer._optimizer.param_groups[-1]["foreach"]

    assert chosen() is True
    assert chosen(foreach=False) is False


def test_average_follows_the_written_recursion():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.4)
    history = run(optimizer, 9)
    expected = dict(history[0])
    for t, current in enumerate(history[1:], start=1):
        d = min(0.4, (1 + t) / (10 + t))
        expected = {n: d * expected[n] + (1 - d) * current[n] for n in expected}
    before = values()
    with optimizer.averaged():
        assert_same(values(), expected, atol=1e-13)
    assert_same(values(), before)
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        _ = 1 / 0
    assert_same(values(), before)


def test_averaged_is_harmless_before_the_first_step_and_without_average():
    weight = torch.ones(3, requires_grad=True)
    optimizer = JointOptim(torch.optim.SGD, {"lr": 0.1}, ema_decay=0.9)
    optimizer.register([("weight", weight)])
    with optimizer.averaged():
        assert weight.tolist() == [1, 1, 1]
    plain = JointOptim(torch.optim.Adamax, {"lr": 0.1})
    before = run(plain, 2)[-1]
    with plain.averaged():
        assert_same(values(), before)


def test_no_step_inside_averaged():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.9)
    run(optimizer, 2)
    with optimizer.averaged(), pytest.raises(RuntimeError, match="averaged"):
        run(optimizer, 1, restart=False)


def test_guard_scales_all_gradients_together():
    a = torch.zeros(3, requires_grad=True)
    b = torch.zeros(2, 2, requires_grad=True)
    optimizer = JointOptim(torch.optim.SGD, {"lr": 1.0}, clip_norm=2.0)
    optimizer.register([("a", a), ("b", b)])
    a.grad, b.grad = torch.full((3,), 2.0), torch.full((2, 2), 1.0)
    optimizer({a, b})
    assert optimizer.gradient_norm.item() == pytest.approx(4.0)
    torch.testing.assert_close(a.detach(), torch.full((3,), -1.0))
    torch.testing.assert_close(b.detach(), torch.full((2, 2), -0.5))
    a.grad, b.grad = torch.full((3,), 0.1), torch.zeros(2, 2)
    optimizer({a, b})  # below the limit: untouched
    torch.testing.assert_close(a.detach(), torch.full((3,), -1.1))


def test_only_parameters_of_this_step_move_and_new_ones_join():
    a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.5)
    optimizer.register([("a", a)])
    optimizer.learning_rate = 0.2
    a.grad = torch.ones(2)
    optimizer({a})
    assert optimizer.learning_rate == 0.2 and a[0].item() == pytest.approx(-0.2)
    optimizer.register([("b", b)])
    assert optimizer.never_trained == ["b"]
    at_rest = a.detach().clone()
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    optimizer({b})
    assert optimizer.never_trained == []
    assert b[0].item() == pytest.approx(-0.2)
    assert torch.equal(a.detach(), at_rest)
    with optimizer.averaged():  # b's average starts after its own first step
        assert b[0].item() == pytest.approx(-0.2)


def test_learning_rate_factors_apply_by_the_longest_prefix():
    """The first step of Adamax is the learning rate times the sign of the gradient."""
    names = ("model.decoder.weight", "model.likelihood.bias", "model.likelihood.net.weight")
    parameters = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in names]
    factors = {"model.likelihood.": 4.0, "model.likelihood.net.": 0.5}
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, learning_rate_factors=factors)
    optimizer.register(zip(names, parameters, strict=True))
    expected = [torch.zeros(2, dtype=torch.float64) for _ in names]
    for learning_rate in (0.1, 0.02):
        optimizer.learning_rate = learning_rate
        for parameter, total, factor in zip(parameters, expected, (1, 4, 0.5), strict=True):
            parameter.grad = torch.tensor([3.0, -3.0], dtype=torch.float64)
            total -= learning_rate * factor * parameter.grad.sign()
        optimizer(parameters)
        torch.testing.assert_close([p.detach() for p in parameters], expected, rtol=1e-8, atol=0)
    assert optimizer.learning_rate == 0.02


def test_learning_rate_factors_in_a_saved_state():
    def make(factor):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model(X), guide(X)
        factors = {"weight": factor}
        optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, learning_rate_factors=factors)
        optimizer.register(sorted(pyro.get_param_store().named_parameters()))
        return optimizer

    whole = make(3.0)
    run(whole, 2, restart=False)
    state, middle = copy.deepcopy(whole.get_state()), values()
    expected = run(whole, 2, seed=2, restart=False)
    for factor in (3.0, 1.0):
        resumed = make(factor)
        resumed.set_state(state)
        with torch.no_grad():
            for name, parameter in pyro.get_param_store().named_parameters():
                parameter.copy_(middle[name])
        got = run(resumed, 2, seed=2, restart=False)
        if factor == 3.0:
            assert_same(got[-1], expected[-1])
        else:  # a new factor applies from here on
            torch.testing.assert_close(
                3 * (got[0]["weight"] - middle["weight"]), expected[0]["weight"] - middle["weight"]
            )


def test_arguments_for_each_parameter_are_refused():
    with pytest.raises(ValueError, match=r"not a function of each parameter.*learning_rate_factor"):
        JointOptim(torch.optim.Adam, lambda name: {"lr": 1e-2})


def test_a_prefix_that_matches_nothing_is_named():
    factors = {"wieght": 2.0}
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, learning_rate_factors=factors)
    with pytest.raises(ValueError, match=r"'wieght'.*matches no parameter.*like 'a_bias'"):
        run(optimizer, 1)


def test_order_does_not_depend_on_the_set():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1})
    run(optimizer, 1)
    assert list(optimizer.get_state()["shapes"]) == ["a_bias", "scale", "weight"]


@pytest.mark.parametrize("through_file", [False, True])
def test_saved_state_continues_the_run_bit_for_bit(tmp_path, through_file):
    def make():
        return JointOptim(torch.optim.Adamax, {"lr": 0.1}, clip_norm=1.0, ema_decay=0.7)

    optimizer = make()
    run(optimizer, 4)
    optimizer.learning_rate = 0.05
    middle = values()
    optimizer.save(tmp_path / "optimizer.pt")
    saved = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    expected = run(optimizer, 4, seed=2, restart=False)[-1]
    with optimizer.averaged():
        expected_average = values()

    pyro.clear_param_store()  # as a new process would begin, and with another order of names
    guide(X)
    pyro.set_rng_seed(2)
    model(X)
    resumed = make()
    resumed.register(sorted(pyro.get_param_store().named_parameters()))
    if through_file:
        resumed.load(tmp_path / "optimizer.pt")
    else:
        resumed.set_state(saved)
    state = resumed.get_state()
    assert_same(state["averages"], saved["averages"])
    with torch.no_grad():
        for name, parameter in pyro.get_param_store().named_parameters():
            parameter.copy_(middle[name])
    result = run(resumed, 4, seed=2, restart=False)[-1]
    assert_same(result, expected)
    assert resumed.learning_rate == 0.05
    with resumed.averaged():
        assert_same(values(), expected_average)


def test_a_state_needs_the_parameters_first():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.7)
    run(optimizer, 2)
    other = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.7)
    with pytest.raises(ValueError, match=r"'a_bias'.*register\(\)"):
        other.set_state(optimizer.get_state())


class Harmful:
    """Unpickling it would raise."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('code was run')",)


def test_loading_runs_no_code(tmp_path):
    torch.save(Harmful(), tmp_path / "optimizer.pt")
    with pytest.raises(pickle.UnpicklingError):
        JointOptim(torch.optim.Adamax, {"lr": 0.1}).load(tmp_path / "optimizer.pt")


def test_a_loaded_state_is_a_copy():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.7)
    run(optimizer, 2)
    state = optimizer.get_state()
    before = copy.deepcopy(state)
    optimizer.set_state(state)
    run(optimizer, 1, restart=False)
    assert_same(state["averages"], before["averages"])
    for name, entry in before["state"].items():
        assert_same(state["state"][name], entry)


def test_foreign_state_is_refused_and_changes_nothing():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.7)
    run(optimizer, 2)
    state = optimizer.get_state()
    before = copy.deepcopy(state)
    wrong = {**state["shapes"], "a_bias": (5,)}
    with pytest.raises(ValueError, match=r"'a_bias'.*\(5,\).*\(2,\)"):
        optimizer.set_state({**state, "shapes": wrong})
    missing = {name: state["shapes"][name] for name in ("scale", "weight")}
    with pytest.raises(ValueError, match="'a_bias'"):
        optimizer.set_state({**state, "shapes": missing})
    assert_same(optimizer.get_state()["averages"], before["averages"])


def test_second_model_under_the_same_names_is_refused():
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1})
    run(optimizer, 1)
    with pytest.raises(ValueError, match=r"'a_bias'.*new JointOptim"):
        run(optimizer, 1)  # clears the parameter store first


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"ema_decay": -0.1},
        {"learning_rate_factors": {"model.": 0.0}},
    ],
)
def test_options_out_of_range(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        JointOptim(torch.optim.Adamax, {"lr": 0.1}, **options)
