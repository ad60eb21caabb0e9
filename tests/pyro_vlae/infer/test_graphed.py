"""GraphedSVI: its loss against Trace_ELBO anywhere, its graphs against eager steps on CUDA."""

import copy
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import (
    CapturableOptim,
    CaptureError,
    FreeBitsELBO,
    GraphedSVI,
    JointOptim,
    SoftFreeBitsELBO,
)
from pyro_vlae.infer.graphed import detached_loss
from pyro_vlae.models import binary_vlae
from pyro_vlae.registration import register_parameters
from pyro_vlae.transforms import clear_cache

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
SHAPE = (1, 8, 8)


def parts(device="cpu"):
    pyro.set_rng_seed(0)
    model = binary_vlae(code_dim=4, image_shape=SHAPE, flow_hidden_dims=(8,), pixelcnn_channels=4)
    guide = GaussianGuide(code_dim=4, image_shape=SHAPE)
    x = torch.rand(6, *SHAPE).round()
    model(x), guide(x)
    return model.to(device), guide.to(device), x.to(device)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("kind", [Trace_ELBO, lambda **options: FreeBitsELBO(7.84, **options)])
def test_loss_and_gradients_are_those_of_pyro(kind, particles):
    model, guide, x = parts()
    model, guide, x = model.double(), guide.double(), x.double()
    elbo = kind(num_particles=particles)
    modules = torch.nn.ModuleList([model, guide])
    pyro.set_rng_seed(1)
    expected = elbo.loss_and_grads(model, guide, x)
    gradients = [p.grad.clone() for p in modules.parameters()]
    modules.zero_grad()
    pyro.set_rng_seed(1)
    loss, surrogate = detached_loss(elbo, model, guide, x)
    assert not loss.requires_grad
    surrogate.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    for parameter, gradient in zip(modules.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_score_function_is_refused():
    def model(x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Poisson(3.0))

    with pytest.raises(CaptureError, match="'z' is not reparameterized"):
        detached_loss(Trace_ELBO(), model, model, torch.zeros(2))


def test_what_cannot_be_graphed_is_refused():
    model, guide, x = parts()
    plain = JointOptim(torch.optim.Adamax, {"lr": 1e-3})
    with pytest.raises(ValueError, match="needs a CapturableOptim"):
        GraphedSVI(model, guide, plain, Trace_ELBO())
    optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 1e-3})
    for loss in (RenyiELBO(num_particles=2), TraceMeanField_ELBO()):
        with pytest.raises(ValueError, match=r"use pyro\.infer\.SVI for other"):
            GraphedSVI(model, guide, optimizer, loss)
    GraphedSVI(model, guide, optimizer, SoftFreeBitsELBO(10.0))
    svi = GraphedSVI(model, guide, optimizer, Trace_ELBO())
    assert isinstance(svi, SVI)
    with pytest.raises(CaptureError, match="got one on cpu"):
        svi.step(x)


def test_nothing_of_the_last_step_is_kept_alive():
    """A transform's memory would keep autograd's nodes, which belong to a stream, from dying."""
    model, guide, x = parts()
    svi = SVI(model, guide, JointOptim(torch.optim.Adamax, {"lr": 1e-3}), Trace_ELBO())
    svi.step(x)
    clear_cache(model.modules())
    for step in model.prior.transforms:
        assert step._cached_x_y == (None, None)


def test_capturable_steps_are_for_cuda():
    with pytest.raises(ValueError, match="Adagrad cannot be captured; Adamax"):
        CapturableOptim(torch.optim.Adagrad, {"lr": 1e-2})
    model, guide, x = parts()
    optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 1e-2})
    with pytest.raises(RuntimeError, match="the parameters are on cpu"):
        SVI(model, guide, optimizer, Trace_ELBO()).step(x)


def mean_guide(guide):
    """Codes without noise, so that two runs can be compared step by step."""

    def program(x):
        register_parameters(guide)
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Delta(guide.posterior(x).mean, event_dim=1))

    return program


@NEEDS_CUDA
def test_graphed_steps_are_eager_steps():
    results = []
    for graphed in (False, True):
        pyro.clear_param_store()
        model, guide, x = parts("cuda")
        optimizer = (CapturableOptim if graphed else JointOptim)(
            torch.optim.Adamax,
            {"lr": 1e-2},
            clip_norm=100.0,
            ema_decay=0.9,
            schedule=lambda step: 1 / (1 + step),
        )
        kind = GraphedSVI if graphed else SVI
        svi = kind(model, mean_guide(guide), optimizer, Trace_ELBO())
        losses = [svi.step(x if step % 3 else x[:4]) for step in range(12)]
        with optimizer.averaged():
            averages = [p.detach().clone() for p in model.parameters()]
        results.append((losses, [p.detach().clone() for p in model.parameters()], averages))
    (eager, weights, averages), (replayed, weights_, averages_) = results
    assert replayed == pytest.approx(eager, rel=1e-3)
    torch.testing.assert_close(weights_, weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(averages_, averages, rtol=1e-3, atol=1e-4)


@NEEDS_CUDA
def test_every_replay_has_noise_of_its_own_and_every_parameter_moves():
    model, guide, x = parts("cuda")
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 1e-3})
    svi = GraphedSVI(model, guide, optimizer, Trace_ELBO(), prepare=torch.bernoulli)
    losses = [svi.step(torch.full_like(x, 0.5)) for _ in range(10)]
    assert len(set(losses)) == 10
    for old, new in zip(before, (*model.parameters(), *guide.parameters()), strict=True):
        assert not torch.equal(old, new)


@NEEDS_CUDA
def test_soft_free_bits_adapt_in_replays():
    model, guide, x = parts("cuda")
    optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 1e-3})
    elbo = SoftFreeBitsELBO(1e6)  # the rate is below it
    svi = GraphedSVI(model, guide, optimizer, elbo)
    gammas = []
    for _ in range(8):
        svi.step(x)
        gammas.append(elbo.last_gamma.item())
    assert gammas == pytest.approx([0.9**k for k in range(8)], rel=1e-5)


@NEEDS_CUDA
def test_a_loaded_state_is_trained_on():
    model, guide, x = parts("cuda")
    optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 1e-3}, ema_decay=0.9)
    svi = GraphedSVI(model, guide, optimizer, Trace_ELBO())
    for _ in range(5):
        svi.step(x)
    optimizer.set_state(copy.deepcopy(optimizer.get_state()))
    before = [value.clone() for value in optimizer._average.values]
    svi.step(x)
    for old, new in zip(before, optimizer._average.values, strict=True):
        assert not torch.equal(old, new)
    with optimizer.averaged(), pytest.raises(RuntimeError, match="hold their averages"):
        svi.step(x)


WAITING = """
import torch
from pyro.infer import Trace_ELBO
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import CapturableOptim, GraphedSVI
from pyro_vlae.models import binary_vlae

model, guide = binary_vlae().cuda(), GaussianGuide().cuda()
x = torch.rand(4, 1, 28, 28, device="cuda").round()

def waiting(x):
    x.sum().item()
    return model(x)

optimizer = CapturableOptim(torch.optim.Adamax, {"lr": 1e-3})
svi = GraphedSVI(waiting, guide, optimizer, Trace_ELBO())
for _ in range(5):
    svi.step(x)
"""


@NEEDS_CUDA
def test_a_model_that_waits_for_the_gpu_is_named():
    # In a process of its own: a failed capture leaves the random generator unusable.
    result = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True)
    assert result.returncode != 0
    assert "CaptureError" in result.stderr
    assert "captur" in result.stderr.rpartition("The cause:")[2]
