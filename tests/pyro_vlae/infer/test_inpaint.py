import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import inpaint
from pyro_vlae.models import VLAE, BernoulliLikelihood, PixelCNNLikelihood, StandardNormalPrior
from pyro_vlae.nn import MaskedResNet

SHAPE = (1, 2, 3)
TOP = torch.tensor([[True] * 3, [False] * 3])
SCATTERED = torch.tensor([[False, True, False], [True, False, True]])


def tiny(likelihood="pixelcnn"):
    """A model of 64 images whose one-dimensional code can be integrated out, and a wrong guide."""
    torch.manual_seed(3)
    network = MaskedResNet(1, 4, 4, 2, 1)
    part = PixelCNNLikelihood(network) if likelihood == "pixelcnn" else BernoulliLikelihood(4)
    decoder = nn.Sequential(nn.Linear(1, 24), nn.Unflatten(-1, (4, 2, 3)))
    model = VLAE(StandardNormalPrior(1), decoder, part)
    guide = GaussianGuide(1, SHAPE, encoder=nn.Flatten(), head=nn.Linear(6, 2))
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.add_(0.7 * torch.randn_like(parameter))
        decoder[0].weight.mul_(4)  # the code decides much
        guide.head.bias.copy_(torch.tensor([0.5, 0.8]))
    return model.double(), guide.double()


def all_images():
    values = itertools.product((0.0, 1.0), repeat=6)
    return torch.tensor(list(values), dtype=torch.float64).view(-1, *SHAPE)


@torch.no_grad()
def conditional(model, image, known):
    """p(x | known pixels of one image) of all 64 images, by quadrature over the code."""
    z = torch.linspace(-6, 6, 601, dtype=torch.float64)
    prior = dist.Normal(torch.zeros(()).double(), 1.0).log_prob(z).softmax(0)
    likelihood = model.likelihood(model.decoder(z[:, None]).unsqueeze(1))
    p = (prior[:, None] * likelihood.log_prob(all_images()).exp()).sum(0)
    agrees = (all_images()[..., known] == image[..., known]).all(-1).all(-1)
    return (p * agrees) / (p * agrees).sum()


def frequencies(images):
    powers = 2 ** torch.arange(5, -1, -1)
    return torch.bincount((images.flatten(-3).long() * powers).sum(-1).flatten(), minlength=64)


@pytest.mark.parametrize("likelihood", ["pixelcnn", "bernoulli"])
@pytest.mark.parametrize("known", [TOP, SCATTERED], ids=["top", "scattered"])
@pytest.mark.parametrize(
    ("particles", "sweeps"), [(40_000, 0), (1, 20)], ids=["resampling", "sweeps"]
)
def test_samples_follow_the_exact_conditional(likelihood, known, particles, sweeps):
    """Each of the two steps suffices alone: many particles, or many sweeps from a bad start."""
    model, guide = tiny(likelihood)
    image = torch.tensor([[[[1.0, 0, 1], [0, 1, 0]]]]).double()
    count = 8000
    samples = inpaint(model, guide, image, known, count, num_particles=particles, num_sweeps=sweeps)
    assert samples.shape == (count, 1, *SHAPE)
    assert (samples[..., known] == image[..., known]).all()
    expected = conditional(model, image[0], known)
    error = (expected * (1 - expected) / count).sqrt() + 1e-3
    difference = (frequencies(samples) / count - expected).abs()
    assert (difference < 4.5 * error).all(), difference / error


def test_a_mask_may_be_on_another_device(device):
    model, guide = (part.to(device) for part in tiny())
    image = torch.zeros(1, *SHAPE, dtype=torch.float64, device=device)
    inpainted = inpaint(model, guide, image, SCATTERED, num_particles=2, num_sweeps=1)
    assert inpainted.device.type == device.type
    with torch.no_grad():
        likelihood = model.likelihood(model.decoder(torch.zeros(1, 1).to(image)))
    assert likelihood.complete(image, TOP)[..., TOP].equal(image[..., TOP])


def test_the_shortcut_that_ignores_later_pixels_would_be_noticed():
    """Without weights, known pixels after the unknown ones have no influence."""
    model, guide = tiny()
    image = torch.tensor([[[[1.0, 0, 1], [0, 1, 0]]]]).double()
    samples = inpaint(model, guide, image, SCATTERED, 8000, num_particles=1, num_sweeps=0)
    expected = conditional(model, image[0], SCATTERED)
    assert (frequencies(samples) / 8000 - expected).abs().max() > 0.05


def test_each_image_has_its_own_mask_and_what_is_unknown_is_not_read():
    model, guide = tiny()
    images = all_images()[[5, 40]]
    known = torch.stack([TOP, SCATTERED])
    hidden = torch.where(known.unsqueeze(1), images, torch.nan)
    pyro.set_rng_seed(3)
    first = inpaint(model, guide, hidden, known, 4, num_particles=8, num_sweeps=2)
    pyro.set_rng_seed(3)
    again = inpaint(model, guide, images, known, 4, num_particles=8, num_sweeps=2)
    assert torch.equal(first, again) and first.shape == (4, 2, *SHAPE)
    kept = known.unsqueeze(1).expand(4, 2, *SHAPE)
    assert torch.equal(first[kept], images.expand(4, -1, -1, -1, -1)[kept])
    assert inpaint(model, guide, images, known, num_particles=2, num_sweeps=1).shape == (2, *SHAPE)
    assert torch.equal(inpaint(model, guide, images, torch.ones(2, 3).bool()), images)


def test_temperature_zero_takes_the_mode_given_the_code():
    """The mode given a code of one dimension takes few values; samples take all 32."""
    model, guide = tiny()
    known = torch.zeros(2, 3, dtype=torch.bool)
    known[0, 0] = True
    image = torch.ones(1, *SHAPE).double()
    several = {"num_samples": 400, "num_particles": 100, "num_sweeps": 1}
    modes = inpaint(model, guide, image, known, **several, temperature=0)
    samples = inpaint(model, guide, image, known, **several)
    assert len(modes.unique(dim=0)) < 10 < len(samples.unique(dim=0))


def test_what_cannot_be_inpainted_is_named():
    model, guide = tiny()
    x = all_images()[:3]
    with pytest.raises(ValueError, match=r"known must be a mask \(height, width\) = \(2, 3\)"):
        inpaint(model, guide, x, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"known must be a bool tensor, got torch\.float32"):
        inpaint(model, guide, x, torch.ones(2, 3))
    with pytest.raises(ValueError, match="temperature must be a number of at least 0, got -1"):
        inpaint(model, guide, x, TOP, temperature=-1)
    with pytest.raises(ValueError, match=r"num_particles must be at least 1 .* got None, 0 and 20"):
        inpaint(model, guide, x, TOP, num_particles=0)
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\), .* got \(2, 3\)"):
        inpaint(model, guide, x[0, 0], TOP)
    with pytest.raises(ValueError, match=r"images must have shape .* got ndarray"):
        inpaint(model, guide, x.numpy(), TOP)
    with pytest.raises(ValueError, match=r"known must be a bool tensor, got ndarray.*as_tensor"):
        inpaint(model, guide, x, TOP.numpy())
    bright = torch.where(TOP, 255 * torch.ones_like(x), x)
    with pytest.raises(ValueError, match=r"outside the support Boolean\(\).* 255: binarize"):
        inpaint(model, guide, bright, TOP)
    assert inpaint(model, guide, bright, ~TOP, num_particles=2, num_sweeps=1).shape == x.shape
    with pytest.raises(ValueError, match=r"NaN or infinity in 3 of 3 images .first: images\[0\]"):
        inpaint(model, guide, x * torch.nan, TOP)

    def other_guide(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("code", dist.Normal(x.new_zeros(1), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"guide samples \['code'\], the model \['z'\].*sweeps=0"):
        inpaint(model, other_guide, x, TOP)
    assert inpaint(model, other_guide, x, TOP, num_sweeps=0).shape == x.shape

    def planar(x):
        base = dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1)
        with pyro.plate("images", len(x), dim=-1):
            step = dist.transforms.planar(1).double()
            pyro.sample("z", dist.TransformedDistribution(base, [step]))

    with pytest.raises(ValueError, match=r"other than its own samples .*num_sweeps=0"):
        inpaint(model, planar, x, TOP)

    def joint(x):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(6), 1.0).to_event(1))
            scale = torch.eye(6, dtype=x.dtype)
            pyro.sample("x", dist.MultivariateNormal(z, scale), obs=x)

    with pytest.raises(ValueError, match="the likelihood is a MultivariateNormal, expected a Pix"):
        inpaint(joint, guide, x, TOP)


def test_sites_of_the_guide_may_depend_on_each_other():
    """y ~ N(0, 1), z ~ N(y, 0.3): the guide proposes z around its own y."""
    torch.manual_seed(0)

    def model(x=None, batch_size=1):
        size = len(x) if x is not None else batch_size
        with pyro.plate("images", size, dim=-1):
            y = pyro.sample("y", dist.Normal(torch.zeros(size), 1.0))
            z = pyro.sample("z", dist.Normal(y, 0.3))
            logits = (2 * z)[..., None, None, None].expand(*z.shape, 1, 1, 2)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            y = pyro.sample("y", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("z", dist.Normal(y, 0.3))

    x, known = torch.ones(1, 1, 1, 2), torch.tensor([[True, False]])
    found = inpaint(model, guide, x, known, num_samples=3000, num_particles=1, num_sweeps=40)
    z = torch.randn(1_000_000) * (1 + 0.3**2) ** 0.5
    one = (2 * z).sigmoid()
    expected = (one * one).mean() / one.mean()
    assert found[..., 1].mean().item() == pytest.approx(expected.item(), abs=0.03)


def test_deterministic_sites_are_allowed_and_factors_refused():
    model, guide = tiny()
    image = torch.zeros(1, *SHAPE).double()

    def noted(x):
        pyro.deterministic("two", torch.tensor(2.0))
        return model(x)

    def noted_guide(x):
        pyro.deterministic("images_given", x)
        return guide(x)

    pyro.set_rng_seed(0)
    expected = inpaint(model, guide, image, TOP, 5)
    pyro.set_rng_seed(0)
    assert torch.equal(inpaint(noted, noted_guide, image, TOP, 5), expected)

    def weighted(x):
        with pyro.plate("all", len(x), dim=-1):
            pyro.factor("penalty", -x.sum((-3, -2, -1)))
        return model(x)

    with pytest.raises(ValueError, match=r"factor 'penalty'.*leave it out"):
        inpaint(weighted, guide, image, TOP, num_sweeps=0)
