"""Every prior x guide x likelihood is an ordinary Pyro program."""

import copy
import gc
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.infer.inspect import get_dependencies
from torch import nn

from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.infer import marginal_log_likelihood, reconstruct
from pyro_vlae.models import (
    VLAE,
    BernoulliLikelihood,
    StandardNormalPrior,
    UnconditionalModel,
    binary_vlae,
    unconditional_pixelcnn,
)
from pyro_vlae.nn import ResNetArchitecture, TwoStackNet
from pyro_vlae.nn.weight_norm import WeightNormLayer
from pyro_vlae.registration import RegistrationError, register_parameters

SHAPE = (1, 8, 8)
DIM = 4
SMALL = {"code_dim": DIM, "image_shape": SHAPE, "flow_layers": 2, "flow_hidden_dims": (8,)}
COMBINATIONS = list(
    itertools.product(["flow", "normal"], ["pixelcnn", "bernoulli"], ["gaussian", "iaf"])
)


def small_guide(name):
    sizes = ResNetArchitecture(SHAPE, DIM, channels=(4, 8), features=16)
    if name == "gaussian":
        return GaussianGuide(architecture=sizes)
    return IAFGuide(layers=2, hidden_dims=(8,), context_dim=4, architecture=sizes)


def build(prior, likelihood, guide, **options):
    torch.manual_seed(0)
    return binary_vlae(prior=prior, likelihood=likelihood, **SMALL, **options), small_guide(guide)


def images(batch=6, dtype=torch.float32):
    return torch.rand(batch, *SHAPE).round().to(dtype)


def snapshot(*modules):
    return [(n, p, p.detach().clone()) for m in modules for n, p in m.named_parameters()]


def assert_all_moved(before):
    still = [name for name, parameter, old in before if torch.equal(parameter, old)]
    assert not still


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_moves_under_stock_svi(combination, dtype, device):
    model, guide = (module.to(device, dtype) for module in build(*combination))
    x = images(dtype=dtype).to(device)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(x)
    before = snapshot(model, guide)
    svi.step(x)
    assert_all_moved(before)


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_particles_renyi_and_importance_weights(combination, device):
    model, guide = (module.to(device) for module in build(*combination))
    x = images().to(device)
    for elbo in (
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=True),
    ):
        optimizer = pyro.optim.Adam({"lr": 1e-2})
        SVI(model, guide, optimizer, elbo).step(x)
        before = snapshot(model, guide)
        SVI(model, guide, optimizer, elbo).step(x)
        assert_all_moved(before)
    weights, _, _ = vectorized_importance_weights(
        model, guide, x, num_samples=5, max_plate_nesting=1, normalized=False
    )
    assert weights.shape == (5,) and weights.isfinite().all()


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_particles_are_scored_as_single_programs_are(combination):
    """A batch of particles scores the same codes as one program per particle."""
    model, guide = (module.double() for module in build(*combination))
    x = images(dtype=torch.float64)
    with pyro.plate("particles", 3, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
    z = guide_trace.nodes["z"]["value"]
    assert z.shape == (3, 6, DIM)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    for k in range(3):
        single = poutine.trace(poutine.condition(model, {"z": z[k]})).get_trace(x)
        single.compute_log_prob()
        for site in ("z", "x"):
            torch.testing.assert_close(
                single.nodes[site]["log_prob"], model_trace.nodes[site]["log_prob"][k]
            )


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_generation_decompression_and_conditioning(combination, device):
    model, guide = (module.to(device) for module in build(*combination))
    x = images().to(device)
    drawn = Predictive(model, num_samples=2)(batch_size=3)
    assert drawn["x"].shape == (2, 3, *SHAPE) and drawn["z"].shape == (2, 3, DIM)
    assert set(drawn["x"].unique().tolist()) <= {0.0, 1.0}
    decompressed = Predictive(poutine.uncondition(model), guide=guide, num_samples=2)(x)
    assert decompressed["x"].shape == (2, 6, *SHAPE)
    z = torch.zeros(6, DIM, device=device)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    assert trace.log_prob_sum().isfinite()


def test_a_window_of_two_stacks_trains_scores_and_generates():
    model, guide = build("flow", "pixelcnn", "gaussian", window="4x2")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(images())
    before = snapshot(model, guide)
    svi.step(images())
    assert_all_moved(before)
    assert model(batch_size=3).shape == (3, *SHAPE)


def test_two_pairs_in_one_process_without_clearing_the_store_all_train():
    x = images()
    for _ in range(2):
        model, guide = build("flow", "pixelcnn", "gaussian")
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        svi.step(x)
        before = snapshot(model, guide)
        svi.step(x)
        assert_all_moved(before)


def test_a_copied_model_trains_on_its_own():
    x = images()
    model, guide = build("flow", "pixelcnn", "gaussian")
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    twin = copy.deepcopy(model)
    ours, theirs = snapshot(model), snapshot(twin)
    SVI(twin, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert_all_moved(theirs)
    assert all(torch.equal(p, old) for _, p, old in ours)


def test_weights_that_the_store_would_copy_are_an_error_not_silence():
    model, guide = build("normal", "bernoulli", "gaussian")
    model.decoder.to(memory_format=torch.channels_last)
    with pytest.raises(RegistrationError, match=r"decoder\..*not contiguous.*convert activations"):
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(images())


def test_a_foreign_tensor_in_the_store_is_an_error_not_silence():
    layer = nn.Linear(2, 2)
    register_parameters(layer)
    name = next(iter(pyro.get_param_store().keys()))
    pyro.get_param_store()[name] = torch.zeros(2, 2)
    with pytest.raises(RegistrationError, match=r"'weight' of Linear.*clear_param_store"):
        register_parameters(layer)


def test_handlers_that_wrap_parameters_are_welcome():
    model, _ = build("flow", "pixelcnn", "gaussian")
    dependencies = get_dependencies(model, (images(),))
    assert dependencies["prior_dependencies"]["x"]["z"] == set()


def test_the_store_lets_go_of_a_model_that_is_gone():
    model, guide = build("flow", "pixelcnn", "gaussian")
    Trace_ELBO().loss(model, guide, images())
    held = len(pyro.get_param_store())
    parameters = len(list(model.parameters()))
    del model
    gc.collect()
    assert len(pyro.get_param_store()) == held - parameters
    guide(images())


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_only_training_initializes(combination):
    model, guide = build(*combination)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images()
    assert model(batch_size=2).shape == (2, *SHAPE)
    poutine.trace(model).get_trace(batch_size=2).compute_log_prob()
    Predictive(model, num_samples=1)(batch_size=2)
    poutine.trace(model).get_trace(x).compute_log_prob()  # the code is a sample of the prior
    get_dependencies(model, (x,))
    for module in (model, guide):
        module.eval()
    Trace_ELBO().loss(model, guide, x)
    marginal_log_likelihood(model, guide, x, num_samples=2)
    for module in (model, guide):
        module.train()
    marginal_log_likelihood(model, guide, x, num_samples=2)
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).evaluate_loss(x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(layer.initialized for layer in weight_norm_layers(model, guide))
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(layer.initialized for layer in weight_norm_layers(model, guide))


def weight_norm_layers(*modules):
    return [m for module in modules for m in module.modules() if isinstance(m, WeightNormLayer)]


@pytest.mark.parametrize("likelihood", ["pixelcnn", "bernoulli"])
def test_images_of_another_size_are_refused_not_broadcast(likelihood):
    model, _ = build("normal", likelihood, "gaussian")
    fixed = poutine.condition(model, {"z": torch.zeros(4, DIM)})
    for shape in ((4, 1, 1, 8), (4, 1, 8, 1), (4, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"expected images of shape \(\*batch, 1, 8, 8\)"):
            poutine.trace(fixed).get_trace(torch.zeros(shape)).log_prob_sum()


def test_frozen_parameters_stay():
    model, guide = build("flow", "pixelcnn", "gaussian")
    model.decoder.requires_grad_(False)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(images())
    frozen, free = snapshot(model.decoder), snapshot(model.prior, model.likelihood, guide)
    svi.step(images())
    assert all(torch.equal(p, old) for _, p, old in frozen)
    assert_all_moved(free)


@pytest.mark.parametrize(
    "seen", [{"masked_layers": 3}, {"window": "5x3"}, {"masked_layers": 2, "context_channels": 0}]
)
def test_unconditional_model_trains_and_generates(seen):
    model = unconditional_pixelcnn(image_shape=SHAPE, pixelcnn_channels=4, **seen)
    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    x = images()
    losses = [svi.step(x) for _ in range(30)]
    before = snapshot(model)
    svi.step(x)
    assert_all_moved(before)
    assert losses[-1] < losses[0]
    assert Predictive(model, num_samples=1)(batch_size=2)["x"].shape == (1, 2, *SHAPE)


def test_an_unconditional_network_for_other_channels_is_refused():
    network = unconditional_pixelcnn(image_shape=SHAPE).network
    with pytest.raises(ValueError, match=r"images of 1 channels, got image_shape \(3, 8, 8\)"):
        UnconditionalModel(network, (3, 8, 8))


def test_without_a_code_a_learned_context_tells_pixels_where_they_are():
    """A blank image looks the same from all pixels far from its border."""
    shape, spread = (1, 9, 9), []
    for channels in (0, 4):
        model = unconditional_pixelcnn(
            image_shape=shape, pixelcnn_channels=4, masked_layers=2, context_channels=channels
        )
        model(torch.rand(6, *shape).round())
        blank = torch.zeros(1, *shape)
        with torch.no_grad():
            likelihood = poutine.trace(model).get_trace(blank).nodes["x"]["fn"]
            spread.append(likelihood.parameters(blank)[..., 2:-2, 2:-2].std().item())
    assert spread[0] < 1e-6 < spread[1]


def test_own_prior_decoder_and_likelihood_are_accepted():
    class Laplace(nn.Module):
        def forward(self):
            return dist.Laplace(torch.zeros(DIM), 1.0).to_event(1)

    prior, decoder = Laplace(), nn.Sequential(nn.Linear(DIM, 64), nn.Unflatten(-1, SHAPE))

    class Pixels(nn.Module):
        def forward(self, features):
            return dist.Bernoulli(logits=features).to_event(3)

    likelihood = Pixels()
    model = binary_vlae(prior=prior, decoder=decoder, likelihood=likelihood)
    assert model.prior is prior and model.decoder is decoder and model.likelihood is likelihood
    guide = small_guide("gaussian")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert svi.step(images()) > 0


@pytest.mark.parametrize(
    ("decoder", "what"),
    [
        (lambda z: z.reshape(-1, 4, 1, 1), r"has batch shape \(35,\), expected \(5, 7\)"),
        (lambda z: z.unflatten(1, (4, 1, 1)), "unflatten: .* for codes of shape"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "for codes of shape"),
    ],
    ids=["reshape", "unflatten", "BatchNorm1d"],
)
def test_a_decoder_of_one_code_per_image_is_told_what_scoring_needs(decoder, what):
    model = VLAE(StandardNormalPrior(4), decoder, BernoulliLikelihood(4))
    guide = GaussianGuide(4, (1, 1, 1), encoder=nn.Flatten(-3), head=nn.Linear(1, 8))
    guide.encoder.out_features = 1
    x = torch.rand(7, 1, 1, 1).round()
    with pytest.raises(ValueError, match=rf"(?s){what}.*any leading dimensions"):
        marginal_log_likelihood(model, guide, x, 5)


@pytest.mark.parametrize("particles", [(), (5,)])
def test_a_likelihood_of_separate_pixels_is_told_to_join_them(particles):
    def pixels(features):
        return dist.Bernoulli(logits=features)

    model = VLAE(StandardNormalPrior(4), lambda z: z.unflatten(-1, (1, 2, 2)), pixels)
    z = torch.randn(*particles, 7, 4)
    with pytest.raises(ValueError, match=r"batch shape .*7, 1, 2, 2\), .*add \.to_event\(3\)"):
        poutine.condition(model, {"z": z})(torch.rand(7, 1, 2, 2).round())


def test_images_may_have_any_number_of_dimensions():
    """One-dimensional sounds, for one."""

    class Samples(nn.Module):
        def forward(self, features):
            return dist.Normal(features, 0.1).to_event(1)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Linear(10, DIM)

        def forward(self, x):
            register_parameters(self)
            with pyro.plate("images", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(self.loc(x), 1.0).to_event(1))

    model, guide = VLAE(StandardNormalPrior(DIM), nn.Linear(DIM, 10), Samples()), Guide()
    x = torch.randn(6, 10)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(x)
    before = snapshot(model, guide)
    svi.step(x)
    assert_all_moved(before)
    assert model(batch_size=3).shape == (3, 10)
    assert marginal_log_likelihood(model, guide, x, num_samples=4).data_dims == 10
    fixed = poutine.condition(model, {"z": torch.zeros(6, DIM)})
    for shape in ((6, 9), (10,), (6, 1)):
        with pytest.raises(ValueError, match=r"expected images of shape \(\*batch, 10\).*got \("):
            fixed(torch.randn(shape))


def test_model_and_guide_take_one_architecture():
    sizes = ResNetArchitecture(SHAPE, 6, channels=(4,), features=10, feature_channels=3)
    model, guide = (
        binary_vlae(architecture=sizes, prior="normal"),
        GaussianGuide(architecture=sizes),
    )
    assert model.prior.code_dim == guide.code_dim == 6
    assert model.likelihood.network.context_channels == 3
    assert SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(images()) > 0
    assert binary_vlae(architecture=sizes, code_dim=6, prior="normal").prior.code_dim == 6
    with pytest.raises(ValueError, match=r"image_shape=\(1, 28, 28\) contradicts.*\(1, 8, 8\)"):
        binary_vlae(architecture=sizes, image_shape=(1, 28, 28))
    with pytest.raises(ValueError, match=r"image_shape must be a positive integer.*\(1, 0, 0\)"):
        binary_vlae(image_shape=(1, 0, 0))


def test_ablation_keywords_do_what_they_say():
    full = binary_vlae()
    assert len(full.prior.transforms) == 4
    assert [layer.weight.shape[0] for layer in full.prior.transforms[0].arn.layers] == [
        640,
        640,
        64,
    ]
    assert len(full.likelihood.network.layers) == 1
    assert len(binary_vlae(tied=False).likelihood.network.layers) == 5
    assert len(binary_vlae(flow_layers=2, flow_hidden_dims=(70,)).prior.transforms) == 2
    assert isinstance(binary_vlae(prior="normal").prior, StandardNormalPrior)
    assert binary_vlae(kernel_size=5).likelihood.network.first.direction.shape[-1] == 5
    wide = binary_vlae(window="7x4").likelihood.network
    assert isinstance(wide, TwoStackNet) and len(wide.links) == 3


def test_wrong_choices_are_refused_readably():
    with pytest.raises(ValueError, match=r"normal.*got 'flwo'"):
        binary_vlae(prior="flwo")
    with pytest.raises(ValueError, match=r"bernoulli.*got 'gauss'"):
        binary_vlae(likelihood="gauss")
    with pytest.raises(ValueError, match="leave out masked_layers=6, or the"):
        binary_vlae(window="7x4", masked_layers=6)
    with pytest.raises(ValueError, match=r'must be "AxB".*got \(7, 4\)'):
        binary_vlae(window=(7, 4))
    with pytest.raises(ValueError, match="masked_layers must be at least 1, got -1"):
        binary_vlae(masked_layers=-1)

    class NoEvent(nn.Module):
        def forward(self):
            return dist.Normal(torch.zeros(DIM), 1.0)

    model = VLAE(NoEvent(), nn.Identity(), nn.Identity())
    with pytest.raises(ValueError, match=r"to_event\(1\)"):
        model(images())
    normal = dist.Normal(torch.zeros(DIM), 1.0).to_event(1)
    with pytest.raises(ValueError, match="must return a distribution, got a Tensor"):
        VLAE(normal, nn.Identity(), nn.Identity())(images())


def test_an_empty_batch_is_refused():
    model, guide = build("normal", "pixelcnn", "gaussian")
    empty, unconditional = images(0), unconditional_pixelcnn(image_shape=SHAPE)
    for call in (
        lambda: Trace_ELBO().loss(model, guide, empty),
        lambda: reconstruct(model, guide, empty),
        lambda: small_guide("iaf")(empty),
        lambda: model(empty),
        lambda: model(batch_size=0),
        lambda: unconditional(batch_size=0),
    ):
        with pytest.raises(ValueError, match="expected at least one image, got a batch of 0"):
            call()


@pytest.mark.parametrize("likelihood", ["pixelcnn", "bernoulli"])
def test_gray_images_are_refused_before_anything_is_learned(likelihood):
    model, guide = build("flow", likelihood, "gaussian")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    with pytest.raises(ValueError, match="support"):
        svi.step(torch.rand(4, *SHAPE))


def test_samples_of_an_unconditional_model_initialize_nothing():
    model = unconditional_pixelcnn(image_shape=SHAPE, pixelcnn_channels=4)
    poutine.trace(model).get_trace(batch_size=2).compute_log_prob()
    assert not any(layer.initialized for layer in weight_norm_layers(model))
    poutine.trace(model).get_trace(images()).compute_log_prob()
    assert all(layer.initialized for layer in weight_norm_layers(model))
