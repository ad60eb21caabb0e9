"""Half precision and compilation of the networks that models and guides declare."""

import copy

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_vlae.data import load_dataset
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, initialize
from pyro_vlae.models import binary_vlae, unconditional_pixelcnn
from pyro_vlae.training import (
    CheckpointError,
    HalfPrecision,
    TrainingSettings,
    compiled,
    fit,
    read_state,
    resolve_precision,
)
from pyro_vlae.training.acceleration import declared_networks

SHAPE = (1, 28, 28)
SMALL = {"code_dim": 4, "flow_hidden_dims": (8,), "pixelcnn_channels": 4}


def programs():
    pyro.set_rng_seed(0)
    model, guide = binary_vlae(**SMALL), GaussianGuide(code_dim=4)
    x = torch.rand(8, *SHAPE).round()
    initialize(model, guide, x)
    return model, guide, x


def loss_and_gradients(model, guide, x):
    pyro.set_rng_seed(1)
    model.zero_grad(), guide.zero_grad()
    loss = FreeBitsELBO().loss_and_grads(model, guide, x)
    return loss, [p.grad.clone() for p in (*model.parameters(), *guide.parameters())]


def train(out=None, max_steps=2, device="cpu", **options):
    model, guide, _ = programs()
    model, guide, data = model.to(device), guide.to(device), load_dataset("digits").to(device)
    result = fit(
        model, guide, data.train, elbo=FreeBitsELBO(), validation=data.validation,
        optimizer=JointOptim(torch.optim.Adamax, {"lr": 1e-3}, ema_decay=0.9), out=out,
        settings=TrainingSettings(batch_size=4, max_steps=max_steps, validation_images=4),
        progress=False, **options,
    )  # fmt: skip
    return result, model, guide


def test_networks_are_those_that_are_declared():
    model, guide, _ = programs()
    networks = declared_networks([model, guide], "networks")
    assert networks == [model.decoder, model.likelihood.network, guide.encoder]
    unconditional = unconditional_pixelcnn(image_shape=(1, 8, 8), pixelcnn_channels=4)
    assert declared_networks([unconditional], "networks") == [unconditional.network]
    assert len(declared_networks([model], "float32_networks")) == len(model.prior.transforms)
    assert declared_networks([nn.Linear(1, 1)], "networks") == []


def test_networks_alone_run_in_bfloat16():
    model, guide, x = programs()
    inside, outside, received = [], [], []
    networks = declared_networks([model, guide], "networks")
    for network in networks:
        convolution = next(m for m in network.modules() if hasattr(m, "direction"))
        convolution.register_forward_hook(
            lambda module, args, out: inside.append((torch.is_autocast_enabled("cpu"), out.dtype))
        )
    for part in (guide.head, *declared_networks([model.prior], "float32_networks")):
        part.register_forward_hook(
            lambda module, args, out: outside.append((torch.is_autocast_enabled("cpu"), out.dtype))
        )
        part.register_forward_pre_hook(lambda module, args: received.append(args[0].dtype))
    with HalfPrecision([model, guide]):
        loss_and_gradients(model, guide, x)
        assert not torch.is_autocast_enabled("cpu")
        assert model.likelihood(model.decoder(torch.zeros(2, 4))).sample().dtype == torch.float32
    assert inside and set(inside) == {(True, torch.bfloat16)}
    assert outside and set(outside) == {(False, torch.float32)}
    assert set(received) == {torch.float32}
    inside.clear()
    loss_and_gradients(model, guide, x)
    assert set(inside) == {(False, torch.float32)}


def test_loss_and_gradients_are_close_to_full_precision():
    model, guide, x = programs()
    loss, gradients = loss_and_gradients(model, guide, x)
    with HalfPrecision([model, guide]):
        half_loss, half_gradients = loss_and_gradients(model, guide, x)
    assert half_loss != loss and half_loss == pytest.approx(loss, rel=0.01)
    flat, half_flat = (torch.cat([g.flatten() for g in gs]) for gs in (gradients, half_gradients))
    assert torch.cosine_similarity(flat, half_flat, dim=0) > 0.99
    assert all(half.abs().sum() > 0 for half in half_gradients)


def test_half_precision_ends_with_an_error_and_leaves_double_alone():
    model, guide, x = programs()
    names = list(model.state_dict())
    with pytest.raises(ZeroDivisionError), HalfPrecision([model, guide]):
        _ = 1 / 0
    assert "forward" not in vars(model.decoder) and list(model.state_dict()) == names
    model, guide = model.double(), guide.double()
    expected, _ = loss_and_gradients(model, guide, x.double())
    with HalfPrecision([model, guide]):
        assert loss_and_gradients(model, guide, x.double())[0] == pytest.approx(expected, rel=1e-9)


def test_half_precision_can_be_nested():
    model, guide, _ = programs()
    with HalfPrecision([model]), HalfPrecision([model, guide]):
        pass
    assert "forward" not in vars(model.decoder) and "forward" not in vars(guide.encoder)


def test_precision_is_resolved_by_the_instructions_of_the_device(monkeypatch):
    cpu = torch.device("cpu")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert resolve_precision("auto", cpu) == "fp32"
    with pytest.warns(UserWarning, match="bf16 is many times slower than fp32 on this CPU"):
        assert resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", torch.device("meta")) == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert resolve_precision("auto", cpu) == "bf16" and resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert resolve_precision("auto", cpu) == "fp32"
    with pytest.raises(ValueError, match=r"auto, bf16, fp32, got 'half'"):
        resolve_precision("half", cpu)


@pytest.mark.filterwarnings("ignore:precision bf16 is many times slower")
def test_a_run_keeps_its_precision(tmp_path):
    result, model, _ = train(tmp_path, precision="bf16")
    assert result.precision == "bf16" and "forward" not in vars(model.decoder)
    assert read_state(tmp_path / "checkpoint")["precision"] == "bf16"
    with pytest.raises(CheckpointError, match="precision bf16, now it is fp32"):
        train(tmp_path, max_steps=3, precision="fp32", resume=True)
    resumed, *parts = train(tmp_path, max_steps=3, resume=True)  # auto: as it was
    assert resumed.precision == "bf16"
    whole, *whole_parts = train(None, max_steps=3, precision="bf16")
    for part, other in zip(parts, whole_parts, strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert train(None, precision="fp32")[0].history != whole.history[:2]


# Warnings of the compiler about itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")
@pytest.mark.parametrize("half", [False, True])
def test_compiled_networks_compute_the_same(half):
    model, guide, x = programs()
    plain = copy.deepcopy(model), copy.deepcopy(guide)
    names = list(model.state_dict())
    contexts = [
        HalfPrecision(pair) if half else torch.enable_grad() for pair in ([model, guide], plain)
    ]
    with contexts[1]:
        loss, gradients = loss_and_gradients(*plain, x)
    with compiled([model, guide], backend="eager"), contexts[0]:
        assert model.decoder._compiled_call_impl is not None
        assert list(model.state_dict()) == names
        compiled_loss, compiled_gradients = loss_and_gradients(model, guide, x)
        optimizer = JointOptim(torch.optim.Adamax, {"lr": 1e-3})
        svi = SVI(model, guide, optimizer, FreeBitsELBO())
        svi.step(x)
    assert model.decoder._compiled_call_impl is None
    assert compiled_loss == pytest.approx(loss, rel=1e-2 if half else 1e-5)
    if not half:
        torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-3, atol=1e-3)
    assert optimizer.never_trained == []


# Warnings of the compiler, some of them about itself.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_continues_on_another_device_and_without_compilation(device, precision, tmp_path):
    on_gpu = device.type == "cuda"
    options = {"device": device, "precision": precision, "max_steps": 6}
    result, *_ = train(tmp_path, compile=on_gpu, **options)
    plain, *_ = train(None, **options)
    tolerance = 2e-2 if precision == "bf16" else 1e-3
    for line, other in zip(result.history, plain.history, strict=True):
        assert line["elbo"] == pytest.approx(other["elbo"], rel=tolerance)
    resumed, *_ = train(tmp_path, max_steps=8, resume=True)
    assert resumed.step == 8 and resumed.history[-1]["elbo"] > 1.1 * plain.history[0]["elbo"]
