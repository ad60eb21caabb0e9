"""PixelCNN is a distribution: it normalizes, samples what it scores, and fits into Pyro."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_vlae.distributions import BernoulliEmission, PixelCNN
from pyro_vlae.distributions.sampling import go_through
from pyro_vlae.models import binary_vlae, gray_vlae
from pyro_vlae.nn import MaskedResNet, ResNetArchitecture, TwoStackNet
from pyro_vlae.nn.weight_norm import WeightNormLayer


def perturbed_network(context_channels=4, seed=0, image_channels=1, **options):
    torch.manual_seed(seed)
    kind = TwoStackNet if "window" in options else MaskedResNet
    net = kind(image_channels, context_channels, **options).double()
    x = torch.rand(8, image_channels, 9, 9).round().double()
    net(x, torch.randn(8, context_channels, 9, 9).double() if context_channels else None)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def all_binary_images(height, width):
    bits = itertools.product([0.0, 1.0], repeat=height * width)
    return torch.tensor(list(bits), dtype=torch.float64).view(-1, 1, height, width)


@pytest.mark.parametrize("options", [{"tied": True}, {"tied": False}, {"window": "4x2"}], ids=str)
def test_probabilities_of_all_512_images_sum_to_one(options):
    net = perturbed_network(**options)
    contexts = torch.randn(4, 1, 4, 3, 3, dtype=torch.float64)
    log_prob = PixelCNN(net, contexts).log_prob(all_binary_images(3, 3))
    assert log_prob.shape == (4, 512)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(4).double())
    assert (log_prob[0] - log_prob[1]).abs().max() > 0.1  # the context matters


def test_unconditional_probabilities_sum_to_one():
    net = perturbed_network(context_channels=0)
    log_prob = PixelCNN(net, None, (1, 3, 3)).log_prob(all_binary_images(3, 3))
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0).double())


def test_samples_follow_the_probabilities():
    net = perturbed_network()
    context = torch.randn(4, 2, 3, dtype=torch.float64)
    likelihood = PixelCNN(net, context)
    images = all_binary_images(2, 3)
    expected = likelihood.log_prob(images).exp()
    draws = likelihood.sample((20_000,)).flatten(1)
    code = (draws * 2 ** torch.arange(5, -1, -1).double()).sum(1).long()
    frequency = torch.bincount(code, minlength=64) / len(draws)
    sigma = (expected * (1 - expected) / len(draws)).sqrt()
    assert ((frequency - expected).abs() < 5 * sigma + 1e-4).all()


def sample_by_full_passes(likelihood, size):
    """The slow oracle: a pixel is drawn from a full pass over the image so far, in raster order."""
    uniform = torch.rand(size, *likelihood.event_shape).to(likelihood.context)
    image = torch.zeros_like(uniform)
    for i, j in itertools.product(*map(range, likelihood.event_shape[1:])):
        probability = likelihood.emission(likelihood.parameters(image)).probs
        image[..., i, j] = (uniform[..., i, j] < probability[..., i, j]).double()
    return image, uniform


def sample_from_uniforms(likelihood, uniform):
    """What `PixelCNN.sample` does, given the noise of each pixel."""

    def choose(distribution, pixels, front):
        return (front.of(uniform) < distribution.probs).to(pixels)

    image = torch.zeros_like(uniform)
    return go_through(likelihood.network, likelihood.emission, likelihood.context, image, choose)


def test_incremental_sampling_equals_full_passes_pixel_by_pixel(device):
    net = perturbed_network().to(device)
    context = torch.randn(6, 4, 12, 10, dtype=torch.float64, device=device)
    likelihood = PixelCNN(net, context)
    expected, uniform = sample_by_full_passes(likelihood, 6)
    assert torch.equal(sample_from_uniforms(likelihood, uniform), expected)
    assert 0.05 < expected.mean() < 0.95


def test_an_unknown_network_is_sampled_by_full_passes():
    class Plain(nn.Module):
        """Each pixel copies its left neighbor; the first column is decided by the context."""

        image_channels = 1

        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(100.0))

        def forward(self, x, context):
            left = nn.functional.pad(x, (1, 0))[..., :-1]
            first = torch.zeros_like(x)
            first[..., 0] = context[..., 0]
            return self.gain * (left + first - 0.5)

        def emission(self, parameters):
            return dist.Bernoulli(logits=parameters)

    context = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 4, 1).expand(1, 4, 5)
    draw = PixelCNN(Plain(), context).sample()
    assert torch.equal(draw, context)


def test_shapes_broadcasting_and_pixel_log_prob():
    net = perturbed_network()
    context = torch.randn(5, 1, 4, 7, 6, dtype=torch.float64)
    likelihood = PixelCNN(net, context)
    assert likelihood.batch_shape == (5, 1)
    assert likelihood.event_shape == (1, 7, 6)
    x = torch.rand(3, 1, 7, 6).round().double()
    log_prob = likelihood.log_prob(x)
    assert log_prob.shape == (5, 3)
    pixels = likelihood.pixel_log_prob(x)
    assert pixels.shape == (5, 3, 7, 6)
    torch.testing.assert_close(pixels.sum((-2, -1)), log_prob)
    for s, b in itertools.product(range(5), range(3)):
        single = PixelCNN(net, context[s, 0]).log_prob(x[b])
        torch.testing.assert_close(single, log_prob[s, b])
    assert likelihood.sample((2,)).shape == (2, 5, 1, 1, 7, 6)
    assert likelihood.sample((0,)).shape == (0, 5, 1, 1, 7, 6)


def test_expand_mask_to_event_and_support():
    net = perturbed_network()
    context = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    likelihood = PixelCNN(net, context)
    x = torch.rand(2, 3, 1, 5, 5).round().double()
    wide = likelihood.expand((2, 3))
    assert wide.batch_shape == (2, 3) and wide.event_shape == (1, 5, 5)
    torch.testing.assert_close(wide.log_prob(x), likelihood.log_prob(x))
    assert wide.sample().shape == (2, 3, 1, 5, 5)
    free = PixelCNN(perturbed_network(0), None, (1, 5, 5)).expand((3,))
    assert free.log_prob(x).shape == (2, 3) and free.sample().shape == (3, 1, 5, 5)

    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(likelihood.mask(mask).log_prob(x), likelihood.log_prob(x) * mask)
    joint = likelihood.to_event(1)
    assert joint.batch_shape == () and joint.event_shape == (3, 1, 5, 5)
    torch.testing.assert_close(joint.log_prob(x), likelihood.log_prob(x).sum(-1))

    assert not likelihood.has_rsample
    assert likelihood.support.event_dim == 3
    assert likelihood.support.check(x).all()
    assert not likelihood.support.check(x + 0.5).any()


def test_support_of_a_network_that_does_not_say_is_real():
    class Silent(nn.Module):
        image_channels = 1

        def emission(self, parameters):
            return dist.Normal(parameters, 1.0)

    assert PixelCNN(Silent(), None, (1, 2, 2)).support.base_constraint is constraints.real


def test_a_network_that_does_not_say_how_to_read_its_parameters_is_refused():
    class Mute(nn.Module):
        image_channels, outputs = 1, "logits"

    with pytest.raises(ValueError, match=r"Mute does not define .* 'logits'\), or pass emission="):
        PixelCNN(Mute(), None, (1, 2, 2))
    named = PixelCNN(Mute(), None, (1, 2, 2), emission=BernoulliEmission())
    assert named.support.base_constraint is constraints.boolean
    assert named.expand((2,)).emission is named.emission


def test_samples_are_in_the_support_and_can_be_scored_in_float32_and_float64():
    for dtype in (torch.float32, torch.float64):
        net = perturbed_network().to(dtype)
        likelihood = PixelCNN(net, torch.randn(4, 4, 6, 6, dtype=dtype))
        draw = likelihood.sample()
        assert draw.dtype == dtype
        assert likelihood.log_prob(draw).dtype == dtype
        assert likelihood.support.check(draw).all()


def test_sampling_initialises_nothing_and_uses_the_plain_weights(feed_by_wavefronts):
    torch.manual_seed(0)
    net = MaskedResNet()
    context = torch.randn(3, 4, 5, 5)
    draw = PixelCNN(net, context).sample()
    assert not any(m.initialized for m in net.modules() if isinstance(m, WeightNormLayer))
    with torch.no_grad():
        full = net(draw, context)
        torch.testing.assert_close(feed_by_wavefronts(net, draw, context), full)


def test_works_as_a_pyro_sample_site():
    net = perturbed_network()
    context = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    x = torch.rand(3, 1, 5, 5).round().double()

    def model():
        with pyro.plate("images", 3):
            return pyro.sample("x", PixelCNN(net, context), obs=x)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], PixelCNN(net, context).log_prob(x))
    free = pyro.poutine.uncondition(model)()
    assert free.shape == x.shape and not torch.equal(free, x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 1, 5, 5), "outside the support.*binarize gray images first"),
        (torch.full((2, 1, 5, 5), torch.nan), "images hold NaN"),
        (torch.full((2, 1, 5, 5), 255.0), "the first one 255.*binarize"),
        (torch.zeros(2, 1, 6, 5), r"expected images of shape .*1, 5, 5.*got \(2, 1, 6, 5\)"),
        (torch.zeros(2, 3, 5, 5), r"expected images of shape .*1, 5, 5.*got \(2, 3, 5, 5\)"),
        (torch.zeros(4, 1, 5, 5), r"batch shape \(4,\) do not broadcast.*\(2,\)"),
    ],
)
def test_wrong_values_are_refused_readably(x, message):
    likelihood = PixelCNN(MaskedResNet(), torch.zeros(2, 4, 5, 5))
    for score in (likelihood.log_prob, likelihood.pixel_log_prob):
        with pytest.raises(ValueError, match=message):
            score(x)


def test_wrong_arguments_are_refused_readably():
    net = MaskedResNet()
    with pytest.raises(ValueError, match="give either a context"):
        PixelCNN(net, None)
    with pytest.raises(ValueError, match="give either a context"):
        PixelCNN(net, torch.zeros(4, 5, 5), (1, 5, 5))
    with pytest.raises(ValueError, match=r"context must have shape \(\*batch, K, height, width\)"):
        PixelCNN(net, torch.zeros(5, 5))
    with pytest.raises(ValueError, match="reads 4 context channels"):
        PixelCNN(net, torch.zeros(3, 5, 5))
    with pytest.raises(ValueError, match="context"):
        PixelCNN(net, torch.full((4, 5, 5), torch.nan))
    with pytest.raises(ValueError, match="reads 4 context channels, got context=None"):
        PixelCNN(net, None, (1, 5, 5))
    with pytest.raises(ValueError, match="known must be a bool tensor"):
        PixelCNN(net, torch.zeros(4, 5, 5)).complete(torch.zeros(1, 5, 5), torch.ones(5, 5))
    p = PixelCNN(net, torch.zeros(2, 4, 5, 5))
    for shape in ((4, 5), (3, 5, 5), (1, 2, 5, 5)):
        with pytest.raises(ValueError, match=r"known must be a mask \(height, width\) = \(5, 5\)"):
            p.complete(torch.zeros(1, 5, 5), torch.ones(shape, dtype=torch.bool))
    for dtype in (torch.bool, torch.int64, torch.uint8, torch.float64):
        images = torch.zeros(1, 5, 5, dtype=dtype)
        for score in (p.log_prob, p.pixel_log_prob):
            with pytest.raises(ValueError, match=f"{dtype}, MaskedResNet reads torch.float32"):
                score(images)
        with pytest.raises(ValueError, match=r"convert 0/1 images with x\.float\(\)"):
            p.complete(images, torch.ones(5, 5, dtype=torch.bool))
    with pytest.raises(NotImplementedError, match="depend on its network's image_channels"):
        PixelCNN.infer_shapes(context=(2, 4, 5, 5))
    with pytest.raises(ValueError, match="image_shape must be"):
        PixelCNN(MaskedResNet(1, 0), None, (3, 5, 5))


class Opaque(nn.Module):
    """A network whose layers are hidden; only its window may be known."""

    image_channels = 1

    def __init__(self, network, with_window):
        super().__init__()
        self.network, self.passes = network, 0
        self.emission = BernoulliEmission()
        if with_window:
            self.window = network.window

    def forward(self, x, context):
        assert x.isfinite().all()  # a decision on values: this cannot be traced
        self.passes += 1
        return self.network(x, context)


@pytest.mark.parametrize(("with_window", "passes"), [(True, 22), (False, 64)])
def test_full_passes_where_layers_are_unknown(with_window, passes):
    """Wavefronts of full passes draw the very pixels that the incremental way draws."""
    net = perturbed_network()
    context = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    opaque = Opaque(net, with_window)
    torch.manual_seed(1)
    slow = PixelCNN(opaque, context).sample()
    assert opaque.passes == passes
    if with_window:
        torch.manual_seed(1)
        assert torch.equal(PixelCNN(net, context).sample(), slow)


def test_completion_is_exact():
    """Given the top row, the rest follows the conditional that enumeration gives."""
    net = perturbed_network()
    likelihood = PixelCNN(net, torch.randn(4, 2, 3, dtype=torch.float64))
    images = all_binary_images(2, 3)
    top = torch.tensor([1.0, 0.0, 1.0]).double()
    agree = (images[:, 0, 0] == top).all(-1)
    expected = likelihood.log_prob(images[agree]).softmax(0)
    value = torch.full((20_000, 1, 2, 3), 0.5, dtype=torch.float64)
    value[:, 0, 0] = top
    known = torch.tensor([[True] * 3, [False] * 3])
    draws = likelihood.complete(value, known)
    assert (draws[:, 0, 0] == top).all()
    code = (draws[:, 0, 1] * torch.tensor([4.0, 2.0, 1.0])).sum(1).long()
    frequency = torch.bincount(code, minlength=8) / len(draws)
    sigma = (expected * (1 - expected) / len(draws)).sqrt()
    assert ((frequency - expected).abs() < 5 * sigma + 1e-4).all()
    assert (value[:, 0, 1] == 0.5).all()  # the argument is untouched
    with pytest.raises(ValueError, match=r"3 of 6 pixel values are outside .* first one 0\.5"):
        likelihood.complete(value[:1], ~known)


def test_completion_by_full_passes_equals_the_incremental_one():
    net = perturbed_network()
    context = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    value = torch.rand(3, 1, 6, 6).round().double()
    known = torch.zeros(6, 6, dtype=torch.bool)
    known[:2], known[2, :3] = True, True
    torch.manual_seed(1)
    fast = PixelCNN(net, context).complete(value, known)
    torch.manual_seed(1)
    slow = PixelCNN(Opaque(net, True), context).complete(value, known)
    assert torch.equal(fast, slow)
    assert torch.equal(fast[..., known], value[..., known])
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert torch.equal(PixelCNN(net, context).complete(value, everything), value)


def test_completion_where_the_factorization_forbids_it_says_so():
    net = perturbed_network(masked_layers=2, pointwise_blocks=0)
    context = torch.zeros(4, 9, 9, dtype=torch.float64)
    value = torch.zeros(1, 9, 9, dtype=torch.float64)
    scribble = torch.zeros(9, 9, dtype=torch.bool)
    scribble[5, 5] = True
    with pytest.raises(ValueError, match=r"pixel \(5, 5\) is known but depends on unknown"):
        PixelCNN(net, context).complete(value, scribble)
    # Known pixels that see only known ones are fine even in the middle of the image ...
    scribble[2:6] = True
    with pytest.raises(ValueError, match=r"pixel \(2, 0\) is known"):
        PixelCNN(net, context).complete(value, scribble)
    # ... and a window that ends earlier allows more than the raster order alone.
    prefix = torch.zeros(9, 9, dtype=torch.bool)
    prefix[0], prefix[1, :3] = True, True
    for network in (net, Opaque(net, False)):
        PixelCNN(network, context).complete(value, prefix)
    prefix[0, 8] = False
    PixelCNN(net, context).complete(value, prefix)
    with pytest.raises(ValueError, match=r"pixel \(1, 0\) is known"):
        PixelCNN(Opaque(net, False), context).complete(value, prefix)


def test_values_are_not_validated_if_it_is_turned_off():
    gray = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    contexts = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    network = perturbed_network()
    assert PixelCNN(network, contexts, validate_args=False).log_prob(gray).isfinite().all()
    with pytest.raises(ValueError, match="outside the support"):
        PixelCNN(network, contexts, validate_args=True).log_prob(gray)


def test_a_network_without_parameters_is_sampled():
    class Even(nn.Module):
        image_channels, outputs = 1, "bernoulli_logits"

        def forward(self, x, context=None):
            return torch.zeros_like(x)

    sample = PixelCNN(Even(), None, (1, 6, 6)).sample((50,))
    assert sample.shape == (50, 1, 6, 6) and abs(sample.mean() - 0.5) < 0.1


@pytest.mark.parametrize("make", [binary_vlae, gray_vlae])
def test_samples_under_autocast_have_the_precision_of_the_network(make):
    torch.manual_seed(0)
    sizes = ResNetArchitecture(image_shape=(1, 6, 5), code_dim=16, channels=(4,), features=16)
    model = make(architecture=sizes, flow_hidden_dims=(16,))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        likelihood = model.likelihood(model.decoder(model.prior().sample((20,))))
        assert likelihood.context.dtype == torch.bfloat16
        x = likelihood.sample()
        completed = likelihood.complete(x, torch.arange(6)[:, None].expand(6, 5) < 3)
        for images in (x, completed):
            assert images.dtype == torch.float32
            assert likelihood.log_prob(images).isfinite().all()  # also checks the support


def small(make):
    """A model of one pixel."""
    torch.manual_seed(0)
    sizes = ResNetArchitecture(image_shape=(1, 1, 1), code_dim=16, channels=(4,), features=16)
    model = make(architecture=sizes, flow_hidden_dims=(16,))
    with torch.no_grad():
        x = model(batch_size=20)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, x


@pytest.mark.parametrize("make", [binary_vlae, gray_vlae])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_probabilities_sum_to_one_under_autocast(make, half):
    model, _ = small(make)
    levels = torch.arange(2) if make is binary_vlae else torch.arange(256) / 127.5 - 1
    with torch.no_grad(), torch.autocast("cpu", half):
        likelihood = model.likelihood(model.decoder(model.prior().sample((20,))))
        assert likelihood.context.dtype == half
        log_prob = likelihood.log_prob(levels.float().view(-1, 1, 1, 1, 1))
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_gray_model_in_half_precision_knows_its_own_samples(half):
    model, _ = small(gray_vlae)
    model = model.to(half)
    with torch.no_grad():
        likelihood = model.likelihood(model.decoder(model.prior().sample((20,))))
        x = likelihood.sample()
        assert x.dtype == half and likelihood.log_prob(x).isfinite().all()
        levels = (torch.arange(256) / 127.5 - 1).to(half).view(-1, 1, 1, 1, 1)
        total = likelihood.log_prob(levels).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(20), atol=1e-5, rtol=0)


def test_gradients_of_each_image_by_vmap():
    """As in `torch.func`'s recipe: a gradient for each image, from one call."""
    model, _ = small(gray_vlae)
    network = model.likelihood.network.eval()
    x = (torch.arange(0, 256, 51) / 127.5 - 1).view(-1, 1, 1, 1)
    context = torch.randn(6, network.context_channels, 1, 1)

    class With(nn.Module):
        image_channels, outputs = 1, network.outputs

        def __init__(self, values):
            super().__init__()
            self.values = (values,)  # not registered

        def forward(self, image, context):
            return torch.func.functional_call(network, self.values[0], (image, context))

    def loss(values, image, context):
        return PixelCNN(With(values), context, validate_args=False).log_prob(image)

    values = {name: p.detach() for name, p in network.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(values, x, context)
    for n in range(6):
        one = torch.func.grad(loss)(values, x[n], context[n])
        for name in values:
            torch.testing.assert_close(each[name][n], one[name], atol=1e-4, rtol=1e-4)
