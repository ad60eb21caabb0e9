from functools import partial, wraps

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vlae.analysis import code_marginals
from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.infer import decode, encode, reconstruct
from pyro_vlae.models import binary_vlae, unconditional_pixelcnn
from pyro_vlae.nn import ResNetArchitecture

SIZES = ResNetArchitecture((1, 8, 8), code_dim=3, channels=(4,), features=8)


def programs(guide=GaussianGuide, **options):
    model = binary_vlae(architecture=SIZES, flow_layers=2, flow_hidden_dims=(8,), **options)
    return model, guide(architecture=SIZES)


def images(count=5):
    return torch.rand(count, 1, 8, 8).round()


def plain_guide(x):
    with pyro.plate("images", len(x), dim=-1):
        return pyro.sample("z", dist.Normal(x + 3, 0.01).to_event(1))


def plain_model(x=None, batch_size=1):
    size = batch_size if x is None else len(x)
    with pyro.plate("images", size, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(10 * z, 0.1).to_event(1), obs=x)


def test_plain_functions_of_pyro_are_enough():
    x = torch.rand(500, 2)
    first, second = (reconstruct(plain_model, plain_guide, x) for _ in range(2))
    torch.testing.assert_close(first, 10 * (x + 3), atol=1.0, rtol=0)
    assert not torch.equal(first, second) and not torch.equal(first, x)
    assert torch.equal(encode(plain_guide, x, mean=True), x + 3)
    codes = encode(plain_guide, x, 7)
    assert codes.shape == (7, 500, 2) and 0.009 < (codes - x - 3).std() < 0.011
    assert torch.equal(decode(plain_model, codes, temperature=0), 10 * codes)
    mean = reconstruct(plain_model, plain_guide, x, mean=True, temperature=0)
    assert torch.equal(mean, 10 * (x + 3))


@pytest.mark.parametrize("likelihood", ["pixelcnn", "bernoulli"])
@pytest.mark.parametrize("guide", [GaussianGuide, IAFGuide])
def test_shapes_and_the_same_samples_as_replaying_the_guide(likelihood, guide):
    model, guide = programs(guide, likelihood=likelihood)
    x = images()
    assert encode(guide, x).shape == (5, 3) and encode(guide, x, 2).shape == (2, 5, 3)
    assert decode(model, encode(guide, x)).shape == x.shape
    assert decode(model, torch.zeros(2, 4, 5, 3)).shape == (2, 4, *x.shape)
    pyro.set_rng_seed(3)
    ours = reconstruct(model, guide, x)
    pyro.set_rng_seed(3)
    codes = poutine.trace(guide.eval()).get_trace(x)
    assert torch.equal(ours, poutine.replay(poutine.uncondition(model.eval()), trace=codes)(x))
    pyro.set_rng_seed(3)
    assert torch.equal(reconstruct(model, guide, x, 1)[0], ours)


def test_samples_come_from_the_likelihood_of_their_own_code():
    """Codes far apart: each image is that of its own code, in every sample."""
    model, _ = programs(likelihood="bernoulli")
    with torch.no_grad():
        model.likelihood.logits.scale.fill_(30.0)
    codes = 3 * torch.randn(4, 6, 3)
    expected = model.likelihood(model.decoder(codes)).base_dist.probs
    samples = torch.stack([decode(model, codes) for _ in range(200)]).mean(0)
    torch.testing.assert_close(samples, expected, atol=0.2, rtol=0)
    assert torch.equal(decode(model, codes, temperature=0), (expected > 0.5).float())


def test_temperature_zero_is_deterministic_and_new_images_need_only_the_prior():
    model, guide = programs()
    codes = model.prior(temperature=0.5).sample((6,))
    assert torch.equal(decode(model, codes, temperature=0), decode(model, codes, temperature=0))
    x = images()
    mean = [reconstruct(model, guide, x, mean=True, temperature=0) for _ in range(2)]
    assert torch.equal(*mean)


class Noisy(nn.Module):
    """A guide whose dropout shows whether it runs in training mode."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, x):
        with pyro.plate("images", len(x), dim=-1):
            loc = self.dropout(torch.ones(len(x), 2))
            return pyro.sample("z", dist.Delta(loc, event_dim=1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda guide: guide,
        lambda guide: guide.forward,
        lambda guide: poutine.scale(guide, scale=0.1),
        lambda guide: poutine.scale(guide.forward, scale=0.1),
        lambda guide: poutine.mask(poutine.scale(guide, scale=0.1), mask=True),
        partial,
        lambda guide: partial(lambda program, x: program(x), guide),
        lambda guide: wraps(guide)(lambda x: guide(x)),
    ],
)
def test_modules_run_in_evaluation_mode_also_if_they_are_wrapped(wrap):
    guide = Noisy()
    assert torch.equal(encode(wrap(guide), torch.zeros(50, 2)), torch.ones(50, 2))
    assert guide.training


def test_modules_are_left_as_they_were():
    model, guide = programs()
    before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
    assert not reconstruct(model, guide, images()).requires_grad
    assert model.training and model.decoder.training
    for old, new in zip(before, (*model.parameters(), *guide.parameters()), strict=True):
        assert torch.equal(old, new)  # layers that are not initialized stay so
    assert not pyro.get_param_store().keys()


def test_what_has_no_code_is_named():
    model, guide = programs()
    x = images()
    with pytest.raises(ValueError, match=r"the guide samples \[\], expected a site 'z'"):
        encode(lambda x: None, x)
    with pytest.raises(ValueError, match=r"model samples \['x'\].*the sites of the codes, \['z'\]"):
        decode(
            unconditional_pixelcnn(image_shape=(1, 8, 8), pixelcnn_channels=4), torch.zeros(2, 3)
        )
    with pytest.raises(ValueError, match=r"codes must have shape \(\*batch, N, code_dim\)"):
        decode(model, torch.zeros(3))
    with pytest.raises(ValueError, match="either num_samples or mean=True, got num_samples=3"):
        encode(guide, x, 3, mean=True)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        reconstruct(model, guide, x, 0)
    with pytest.raises(ValueError, match="temperature must be a number of at least 0, got nan"):
        decode(model, torch.zeros(2, 3), temperature=float("nan"))


def test_only_errors_of_shapes_are_said_to_be_of_shapes():
    model, _ = programs(likelihood="bernoulli")

    def wrong_size(batch_size):
        return torch.zeros(batch_size, 3) @ torch.zeros(4, 5)

    with pytest.raises(ValueError, match=r"cannot decode codes of shape \(2, 5\) \(mat1 and mat2"):
        decode(wrong_size, torch.zeros(2, 5))
    with pytest.raises(RuntimeError, match="dtype"):
        decode(model, torch.zeros(2, 3).double())

    def full(batch_size):
        raise torch.OutOfMemoryError("out of memory; see max_split_size_mb")

    with pytest.raises(torch.OutOfMemoryError):
        decode(full, torch.zeros(2, 3))


def test_a_model_in_the_place_of_the_guide_is_refused():
    """Its codes would be samples from the prior, whatever the images."""
    with pytest.raises(ValueError, match="encode takes the guide"):
        encode(binary_vlae(), torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="encode takes the guide"):
        reconstruct(plain_model, plain_model, torch.zeros(2, 2), mean=True)


def test_a_mean_without_closed_form_is_refused():
    """Also that of Pyro's automatic guides, whose code is a Delta at an auxiliary sample."""
    x = images()
    _, guide = programs(IAFGuide)
    with pytest.raises(ValueError, match=r"has no closed form .*num_samples=100\)\.mean\(0\)"):
        encode(guide, x, mean=True)
    automatic = AutoNormal(poutine.block(plain_model, hide=["x"]))
    x = torch.rand(5, 2)
    automatic(x)
    assert encode(automatic, x, 4).shape == (4, 5, 2)
    with pytest.raises(ValueError, match="has no closed form"):
        encode(automatic, x, mean=True)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_mean_given_another_random_site_is_refused(auxiliary):
    """It is another one in each run."""

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            noise = dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
            u = pyro.sample("u", noise, infer={"is_auxiliary": auxiliary})
            pyro.sample("z", dist.Normal(x + 5 * u, 0.1).to_event(1))

    x = torch.rand(5, 2)
    assert encode(guide, x, 3).shape == (3, 5, 2)
    for call in (encode, code_marginals, partial(reconstruct, plain_model)):
        with pytest.raises(ValueError, match="no closed form"):
            call(guide, x, **({} if call is code_marginals else {"mean": True}))


def test_deterministic_sites_and_factors_are_no_codes():
    def model(x=None, batch_size=1):
        pyro.deterministic("two", torch.tensor(2.0))
        with pyro.plate("images", batch_size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("penalty", -z.square().sum(-1))
            loc = pyro.deterministic("loc", 10 * z, event_dim=1)
            return pyro.sample("x", dist.Normal(loc, 0.1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            loc = pyro.deterministic("shifted", x + 3, event_dim=1)
            z = pyro.sample("z", dist.Normal(loc, 0.01).to_event(1))
            pyro.factor("penalty_too", -z.square().sum(-1), has_rsample=True)

    x = torch.rand(5, 2)
    assert torch.equal(encode(guide, x, mean=True), x + 3)
    assert torch.equal(code_marginals(guide, x).loc, x + 3)
    mean = reconstruct(model, guide, x, mean=True, temperature=0)
    assert torch.equal(mean, 10 * (x + 3))
    assert torch.equal(decode(model, x, temperature=0), 10 * x)
    assert reconstruct(model, guide, x, 3).shape == (3, 5, 2)


def test_a_likelihood_need_not_have_a_support():
    class Unbounded(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    def model(x=None):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", Unbounded(z, 1.0).to_event(1), obs=x)

    assert reconstruct(model, plain_guide, torch.rand(3, 2)).shape == (3, 2)


def test_images_that_the_model_cannot_generate_are_refused():
    model, guide = programs()
    x = images()
    for wrong, message in (
        (
            255 * torch.ones_like(x),
            "320 of 320 pixel values are outside the support.*255: binarize",
        ),
        (x.index_fill(0, torch.tensor([2]), torch.nan), r"NaN or infinity in 1 of 5 .*images\[2\]"),
        (x.numpy(), "must be a tensor of images .*, got ndarray: pass .*from_numpy"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruct(model, guide, wrong)
    with pytest.raises(ValueError, match="NaN or infinity in 5 of 5"):
        encode(guide, x * torch.nan)
    with pytest.raises(ValueError, match="codes must be a tensor, got ndarray"):
        decode(model, encode(guide, x).numpy())
    with pytest.raises(
        ValueError, match=r"one image as x\.unsqueeze\(0\), images without channels"
    ):
        encode(guide, x[0])
