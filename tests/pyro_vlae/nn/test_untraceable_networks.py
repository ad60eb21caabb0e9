"""Networks whose forward pass cannot be followed are sampled by full passes."""

import logging
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_vlae.distributions import BernoulliEmission, PixelCNN
from pyro_vlae.distributions.sampling import go_through
from pyro_vlae.nn import CausalConv2d, PixelNetwork, WeightNormConv2d
from pyro_vlae.nn.graph import NotCausal, UntraceableNetwork
from pyro_vlae.nn.tracing import plan
from pyro_vlae.nn.wavefront import FullPasses, WavefrontEvaluator, make_evaluator, window_of
from pyro_vlae.training.acceleration import HalfPrecision


class Plain(PixelNetwork):
    """Three layers, and between two of them what a test puts there."""

    image_channels, outputs = 1, "bernoulli_logits"

    def __init__(self, between=lambda network, h: h, first=CausalConv2d, extra=None):
        super().__init__()
        self.first = first(1, 6, 3, image_channels=1)
        self.second = CausalConv2d(6, 6)
        self.last = WeightNormConv2d(6, 1, 1)
        self.extra = extra
        self.register_buffer("count", torch.zeros(()))
        self.between = [between]

    def forward(self, x, context=None):
        h = self.between[0](self, self.first(x))
        return self.last(F.elu(self.second(F.elu(h))))


class OwnForward(CausalConv2d):
    def forward(self, x):
        return torch.tanh(super().forward(x))


class OwnProduct(CausalConv2d):
    def apply_weight(self, x, weight, bias):
        return 0.5 * super().apply_weight(x, weight, bias)


class OwnWeight(CausalConv2d):
    def weight(self):
        return 2 * super().weight()


def hooked(register):
    network = Plain()
    register(network)
    return network


def scaled_in_place(network, h):
    h.mul_(2.0)
    return h


def aliased(network, h):
    skip = h
    h += network.second(F.elu(h))
    return h + skip


def first_set(network, h):
    h[:, :2] = 0
    return h


def data_added(network, h):
    h.data += 1
    return h


def called(function):
    def between(network, h):
        function(network, h)
        return h

    return between


def static_scaled(network, h):
    scale = network.last.scale.clone()
    scale.mul_(3.0)
    return h * scale


def static_set(network, h):
    scale = network.last.scale.clone()
    return h * scale.add_(3.0) + scale


def counted(network, h):
    network.count += 1
    return h * network.count


def asserts(network, h):
    assert isinstance(h, torch.Tensor)
    return h


def raises(network, h):
    if not isinstance(h, torch.Tensor):
        raise ValueError("a tensor is wanted")
    return h


def own_instance_forward(network):
    network.forward = lambda x, context=None: 2 * Plain.forward(network, x)


IN_PLACE = "is not called out of place"
UNTRACEABLE = [
    ("control flow", lambda: Plain(lambda n, h: h if h.sum() < 1e9 else -h)),
    ("pad is neither", lambda: Plain(lambda n, h: F.pad(h, (1, 0))[..., :-1])),
    ("mean is neither", lambda: Plain(lambda n, h: h.mean((2, 3), keepdim=True).expand_as(h))),
    (IN_PLACE, lambda: Plain(lambda n, h: h + F.elu(h, inplace=True))),
    (IN_PLACE, lambda: Plain(called(lambda n, h: F.elu(h, inplace=True)))),
    (IN_PLACE, lambda: Plain(called(lambda n, h: F.elu(h, 1.0, True)))),
    (IN_PLACE, lambda: Plain(called(lambda n, h: F.elu_(h)))),
    (IN_PLACE, lambda: Plain(called(lambda n, h: n.extra(h)), extra=nn.ReLU(True))),
    (IN_PLACE, lambda: Plain(called(lambda n, h: torch.mul(h, 2, out=h)))),
    (IN_PLACE, lambda: Plain(scaled_in_place)),
    (IN_PLACE, lambda: Plain(static_scaled)),
    (IN_PLACE, lambda: Plain(static_set)),
    ("changes a tensor in place", lambda: Plain(aliased)),
    ("changes a tensor in place", lambda: Plain(first_set)),
    ("changes a tensor in place", lambda: Plain(data_added)),
    ("changes a tensor in place", lambda: Plain(counted)),
    ("log_softmax is not used", lambda: Plain(called(lambda n, h: h.log_softmax(1)))),
    ("cannot trace it|is neither", lambda: Plain(first=OwnForward)),
    ("OwnProduct. is neither", lambda: Plain(first=OwnProduct)),
    ("OwnWeight. is neither", lambda: Plain(first=OwnWeight)),
    (
        "second has hooks",
        lambda: hooked(lambda n: n.second.register_forward_hook(lambda m, i, o: 2 * o)),
    ),
    ("network has hooks", lambda: hooked(lambda n: n.register_forward_hook(lambda m, i, o: 2 * o))),
    (
        "network has hooks",
        lambda: hooked(lambda n: n.register_forward_pre_hook(lambda m, i: (1 - i[0], *i[1:]))),
    ),
    ("or another forward", lambda: hooked(own_instance_forward)),
    ("sets attributes", lambda: Plain(called(lambda n, h: setattr(n, "seen", h)))),
    ("cannot trace it", lambda: Plain(asserts)),
    ("a tensor is wanted", lambda: Plain(raises)),
    ("cannot trace it", lambda: Plain(lambda n, h: {6: F.elu}[h.shape[1]](h))),
    ("TypeError", lambda: Plain(lambda n, h: torch.cat([h[:, 3:], h[:, :3]], axis=1))),
    ("cat is neither", lambda: Plain(lambda n, h: torch.cat(tensors=[h[:, 3:], h[:, :3]], dim=1))),
    ("something other than a slice", lambda: Plain(lambda n, h: h[..., :6, :, :])),
]


def from_uniforms(network, uniform):
    """Sample a pixel wherever its uniform noise is below its probability."""

    def choose(distribution, pixels, front):
        return (front.of(uniform) < distribution.probs).double()

    return go_through(network, BernoulliEmission(), None, torch.zeros_like(uniform), choose)


@torch.no_grad()
def by_full_passes(network, uniform):
    """The slow oracle: pixel by pixel, each from a pass over all so far."""
    image = torch.zeros_like(uniform)
    for i in range(uniform.shape[2]):
        for j in range(uniform.shape[3]):
            probability = network(image, None)[:, :, i, j].sigmoid()
            image[:, :, i, j] = (uniform[:, :, i, j] < probability).double()
    return image


@pytest.mark.parametrize(("why", "make"), UNTRACEABLE)
def test_what_cannot_be_traced_is_sampled_by_full_passes(why, make):
    network = make().double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    with pytest.raises(UntraceableNetwork, match=why):
        plan(network)
    assert network.count == 0 and not isinstance(getattr(network, "seen", None), torch.fx.Proxy)
    assert network.window() is None
    assert isinstance(make_evaluator(network, None, 2, 4, 3), FullPasses)
    if network.between[0] is not counted:  # whose passes all differ
        uniform = torch.rand(3, 1, 5, 4, dtype=torch.float64)
        assert torch.equal(from_uniforms(network, uniform), by_full_passes(network, uniform))
    assert PixelCNN(network, None, (1, 4, 3)).sample((2,)).shape == (2, 1, 4, 3)


def test_hooks_and_forwards_set_later_are_noticed():
    network = Plain()
    assert isinstance(make_evaluator(network, None, 1, 4, 3), WavefrontEvaluator)
    handle = network.second.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert isinstance(make_evaluator(network, None, 1, 4, 3), FullPasses)
    handle.remove()
    assert isinstance(make_evaluator(network, None, 1, 4, 3), WavefrontEvaluator)

    class Owner(nn.Module):
        networks = ("network",)

        def __init__(self):
            super().__init__()
            self.network = network

    with HalfPrecision([Owner()]):
        assert PixelCNN(network, None, (1, 4, 3)).sample((2,)).shape == (2, 1, 4, 3)
    assert isinstance(make_evaluator(network, None, 1, 4, 3), WavefrontEvaluator)


@pytest.mark.parametrize(
    ("extra", "traced"), [(nn.Dropout(0.5), True), (nn.ReLU(), True), (nn.BatchNorm2d(6), False)]
)
def test_dropout_counts_as_identity_in_evaluation_mode(extra, traced):
    network = Plain(lambda n, h: n.extra(h), extra=extra).eval()
    assert isinstance(make_evaluator(network, None, 1, 4, 3), WavefrontEvaluator) == traced
    network.train()
    found = make_evaluator(network, None, 1, 4, 3)
    assert isinstance(found, WavefrontEvaluator) == isinstance(extra, nn.ReLU)


class SeesItself(Plain):
    def forward(self, x, context=None):
        return super().forward(x) + x


class SeesLater(Plain):
    def __init__(self):
        super().__init__()
        self.first = CausalConv2d(1, 6, (1, 2), first_offset=(0, 1))


class SeesItselfInTurn(Plain):
    image_channels, channel_autoregressive = 2, True

    def __init__(self):
        super().__init__()
        self.both = WeightNormConv2d(1, 2, 1)

    def forward(self, x, context=None):
        return self.both(x[:, :1])


class GreenSeesGreen(PixelNetwork):
    """Its last parameters may see green, so the degrees of all of them together are allowed."""

    image_channels, channel_autoregressive = 3, True
    outputs = "discretized_logistic_mixture"

    def __init__(self, wrong=True):
        super().__init__()
        channel = torch.arange(3).repeat_interleave(torch.tensor([3, 4, 5]) * 2)
        own = torch.arange(3) < channel[:, None]
        own[channel == 1, 1] = wrong
        self.first = CausalConv2d(3, 24, own_pixel=own)

    def forward(self, x, context=None):
        return self.first(x)


def test_channels_that_see_the_earlier_ones_alone_are_causal():
    assert plan(GreenSeesGreen(wrong=False)).trace.window()


@pytest.mark.parametrize("kind", [SeesItself, SeesLater, SeesItselfInTurn, GreenSeesGreen])
def test_networks_that_are_not_causal_are_noticed(kind):
    network = kind()
    with pytest.raises(NotCausal, match="parameters depend on"):
        plan(network)
    with pytest.warns(UserWarning, match=f"{kind.__name__} is not causal.*do not sum to one"):
        make_evaluator(network, None, 1, 4, 3)


def test_the_window_is_found_with_the_context_at_hand():
    class Pooled(Plain):
        context_channels = 2

        def forward(self, x, context):
            return super().forward(x) + F.avg_pool2d(context, 9).mean((1, 2, 3), keepdim=True)

    context = torch.randn(1, 2, 10, 10)
    assert window_of(Pooled(), context) == Pooled().window() == Plain().window()


def test_empty_batches():
    network = Plain().eval()
    p = PixelCNN(network, None, (1, 4, 3)).expand([0])
    assert p.sample().shape == (0, 1, 4, 3) and p.log_prob(p.sample()).shape == (0,)
    known = torch.zeros(4, 3, dtype=torch.bool)
    assert p.complete(p.sample(), known).shape == (0, 1, 4, 3)
    for evaluator in (WavefrontEvaluator, FullPasses):
        run = evaluator(network, None, 0, 4, 3)
        for rows, _ in run:
            assert run.parameters().shape == (0, 1, 1, len(rows))
            run.write(torch.zeros(0, 1, 1, len(rows)))


def test_a_mistake_in_forward_is_not_hidden():
    network = Plain(lambda n, h: h.shape + "x")
    with pytest.raises(TypeError):
        PixelCNN(network, None, (1, 4, 3)).sample()


def test_changes_of_an_object_that_steers_forward_are_noticed():
    def repeated(network, h):
        for _ in range(network.extra.repeats):
            h = network.second(F.elu(h))
        return h

    network = Plain(repeated, extra=SimpleNamespace(repeats=2))
    network.extra.itself = network.extra
    wide = plan(network, None).trace.window()
    network.extra.repeats = 1
    narrow = plan(network, None).trace.window()
    assert narrow < wide
    assert narrow == plan(Plain(repeated, extra=SimpleNamespace(repeats=1)), None).trace.window()


def test_channels_are_modeled_at_once_unless_a_network_says_otherwise():
    class Foreign(nn.Module):
        image_channels, outputs = 1, "discretized_logistic_mixture"

        def __init__(self):
            super().__init__()
            self.first = CausalConv2d(1, 6, image_channels=1)

        def forward(self, x, context=None):
            return self.first(x)

    assert plan(Foreign()).trace.window()


LOG = logging.getLogger("networks")
SETTINGS = {"repeats": 2}
SETTINGS["itself"] = SETTINGS


def test_variables_may_refer_to_each_other_and_loggers_do_not_count():
    def logged(network, h):
        LOG.debug("called with %s", SETTINGS["repeats"])
        return h * SETTINGS["repeats"]

    network = Plain(logged)
    found = plan(network)
    assert LOG.isEnabledFor(logging.DEBUG) is not None  # changes the logger's cache
    assert plan(network) is found
    SETTINGS["repeats"] = 3
    assert plan(network) is not found


@dataclass(slots=True)
class Slots:
    factor: float = 1.0


FACTOR = 1.0


def factor():
    return FACTOR


class Steered(Plain):
    """Logits times a number that does not come from a weight."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        self.tensor, self.array, self.slots = torch.ones(()), np.ones(1), Slots()
        self.call = partial(pow, 1.0)

    def forward(self, x, context=None):
        numbers = self.tensor.item() * float(self.array[0]) * self.slots.factor * self.call(2)
        return super().forward(x) * (numbers * self.scale * factor() * self.closure())

    def closure(self):
        return (lambda: FACTOR)()


def other_forward(network, x, context=None):
    return Plain.forward(network, x) * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda network, patch: network.tensor.fill_(2.0),
        lambda network, patch: setattr(network, "tensor", torch.tensor(2.0)),
        lambda network, patch: network.array.fill(2.0),
        lambda network, patch: setattr(network.slots, "factor", 2.0),
        lambda network, patch: setattr(network, "call", partial(pow, 2.0)),
        lambda network, patch: patch.setattr(Steered, "scale", 2.0),
        lambda network, patch: patch.setattr(Steered, "forward", other_forward),
        lambda network, patch: patch.setattr(Steered, "closure", lambda self: 3.0),
        lambda network, patch: patch.setitem(globals(), "FACTOR", 2.0),
        lambda network, patch: patch.setitem(globals(), "factor", lambda: 2.0),
    ],
    ids=[
        "in-place",
        "tensor",
        "array",
        "slots",
        "partial",
        "class",
        "forward",
        "method",
        "constant",
        "function",
    ],
)
def test_whatever_steers_forward_is_noticed(change, monkeypatch, feed_by_wavefronts):
    torch.manual_seed(0)
    network = Steered().double().eval()
    x = torch.rand(2, 1, 4, 3).double()
    with torch.no_grad():
        before = network(x)
        torch.testing.assert_close(feed_by_wavefronts(network, x, None), before)
        cached = plan(network)
        assert plan(network) is cached
        change(network, monkeypatch)
        after = network(x)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(feed_by_wavefronts(network, x, None), after)
