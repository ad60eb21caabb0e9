"""The color models are ordinary Pyro programs, at small widths and images."""

from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

from pyro_vlae.guides import GaussianGuide, color_guide
from pyro_vlae.infer import SoftFreeBitsELBO, marginal_log_likelihood
from pyro_vlae.models import (
    BernoulliLikelihood,
    StandardNormalPrior,
    color_vlae,
    densenet_vlae,
    resnet_vlae,
    spatial_flow_prior,
)
from pyro_vlae.nn import MapArchitecture, MapDecoder
from pyro_vlae.nn.weight_norm import WeightNormLayer

SHAPE = (3, 8, 12)
SIZES = MapArchitecture(SHAPE, code_channels=2, channels=(4, 6, 6), blocks=(2, 1, 3))
PARTS = {"flow_layers": 2, "flow_channels": (4, 4), "pixelcnn_channels": 4}
DIM = 12
RECIPES = {"resnet": resnet_vlae, "densenet": densenet_vlae}


def build(encoder="resnet", window="7x4", **parts):
    torch.manual_seed(0)
    model = RECIPES[encoder](window, SIZES, **PARTS, **parts)
    return model, color_guide(replace(SIZES, dense=encoder == "densenet"))


def images(batch=6, dtype=torch.float32):
    return (torch.randint(0, 256, (batch, *SHAPE)) / 127.5 - 1).to(dtype)


@pytest.mark.parametrize("encoder", RECIPES)
@pytest.mark.parametrize("window", ["4x2", "5x3", "7x4", "7x4-gray"])
def test_every_parameter_moves_under_stock_svi(encoder, window, device):
    model, guide = (module.to(device) for module in build(encoder, window))
    x = images().to(device)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), SoftFreeBitsELBO())
    svi.step(x)
    before = [(n, p, p.detach().clone()) for m in (model, guide) for n, p in m.named_parameters()]
    svi.step(x)
    assert not [name for name, parameter, old in before if torch.equal(parameter, old)]


@pytest.mark.parametrize("encoder", RECIPES)
def test_particles_are_scored_as_single_programs_are(encoder):
    model, guide = (module.double() for module in build(encoder))
    x = images(3, torch.float64)
    Trace_ELBO().loss(model, guide, x)  # initializes
    with pyro.plate("particles", 2, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
    model_trace.compute_log_prob()
    z = guide_trace.nodes["z"]["value"]
    assert z.shape == (2, 3, DIM)
    for k in range(2):
        single = poutine.trace(poutine.condition(model, {"z": z[k]})).get_trace(x)
        single.compute_log_prob()
        for site in ("z", "x"):
            torch.testing.assert_close(
                single.nodes[site]["log_prob"], model_trace.nodes[site]["log_prob"][k]
            )


@pytest.mark.parametrize("encoder", RECIPES)
def test_generation_decompression_and_scoring(encoder, device):
    model, guide = (module.to(device) for module in build(encoder))
    x = images(4).to(device)
    drawn = Predictive(model, num_samples=2)(batch_size=3)
    assert drawn["x"].shape == (2, 3, *SHAPE) and drawn["z"].shape == (2, 3, DIM)
    decompressed = Predictive(poutine.uncondition(model), guide=guide, num_samples=1)(x)["x"][0]
    levels = (decompressed + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3
    assert levels.round().min() >= 0 and levels.round().max() <= 255
    score = marginal_log_likelihood(model, guide, x, num_samples=8)
    assert score.data_dims == 3 * 8 * 12
    assert (score.log_prob >= score.elbo).all()


def test_generating_initializes_nothing():
    model, _ = build()
    model(batch_size=2)
    assert not any(m.initialized for m in model.modules() if isinstance(m, WeightNormLayer))


def test_parts_can_be_exchanged():
    decoder = MapDecoder(replace(SIZES, dense=True))
    prior, likelihood = spatial_flow_prior(SIZES.code_shape, 1, (4,)), BernoulliLikelihood(13, 3)
    model = color_vlae(SIZES, prior=prior, decoder=decoder, likelihood=likelihood)
    assert model.prior is prior and model.decoder is decoder and model.likelihood is likelihood
    assert isinstance(resnet_vlae(architecture=SIZES, prior="normal").prior, StandardNormalPrior)
    with pytest.raises(ValueError, match=r'"flow", "normal", or a prior module.*\'uniform\''):
        resnet_vlae(architecture=SIZES, prior="uniform")
    with pytest.raises(ValueError, match="3x9"):
        densenet_vlae("3x9", SIZES)
    reads = color_vlae(SIZES, decoder=decoder).likelihood.network.context_channels
    assert reads == decoder.feature_channels != MapDecoder(SIZES).feature_channels


def test_the_papers_sizes():
    model, guide = resnet_vlae(), color_guide()
    assert len(model.prior.transforms) == 6 and model.prior.code_dim == guide.code_dim == 1024
    assert model.prior.transforms[0].network.layers[1].direction.shape == (128, 128, 3, 3)
    assert model.likelihood.network.context_channels == 48
    x = torch.zeros(2, 3, 32, 32)
    assert guide.posterior(x).event_shape == (1024,) == model.prior().event_shape


def test_the_code_keeps_the_place_of_things():
    """Means and scales are maps: a corner of the image moves its corner of the code."""
    guide = color_guide(replace(SIZES, image_shape=(3, 32, 32), blocks=(0, 0, 0)))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    q = guide.posterior(x).base_dist
    y = x.clone()
    y[..., :4, :4] *= -1
    p = guide.posterior(y).base_dist
    for name in ("loc", "scale"):
        change = (getattr(p, name) - getattr(q, name)).abs().view(2, 2, 8, 8).amax((0, 1)) > 0
        assert change[:2, :2].any() and not change[3:].any() and not change[:, 3:].any()


def test_a_guide_whose_head_is_for_another_code_is_refused():
    guide = GaussianGuide(5, SHAPE, nn.Flatten(), head=nn.Identity())
    with pytest.raises(ValueError, match=r"2 x 5 means and raw scales.*\(6, 288\)"):
        guide(images())
