import dataclasses
import hashlib
import itertools
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.codec import CodecError, LosslessCodec, container
from pyro_vlae.codec.container import Container
from pyro_vlae.data import load_dataset
from pyro_vlae.distributions import PixelCNN
from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.infer import initialize, marginal_log_likelihood
from pyro_vlae.models import VLAE, binary_vlae, load_pretrained, unconditional_pixelcnn
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.nn.weight_norm import WeightNormLayer


def programs(height=3, width=5, code_dim=4, channels=1, **options):
    torch.manual_seed(height + 10 * width)
    sizes = ResNetArchitecture(
        image_shape=(channels, height, width), code_dim=code_dim, channels=(4,)
    )
    options = {"flow_layers": 2, "flow_hidden_dims": (8,), **options}
    return binary_vlae(architecture=sizes, **options), GaussianGuide(architecture=sizes)


def images(count, height=3, width=5, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, channels, height, width, generator=generator) < 0.3).float()


@pytest.fixture(scope="module")
def pretrained():
    return load_pretrained("static-mnist")


@pytest.fixture(scope="module")
def digits(pretrained):
    """Samples of the model: the bits of other images would not be quite random."""
    torch.manual_seed(0)
    return pretrained[0](batch_size=60)


def with_checksum(data):
    """The file with the right CRC, so that other checks are reached."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(2, 7),
    st.integers(2, 7),
    st.integers(1, 2),
    st.sampled_from(["pixelcnn", "bernoulli", "4x2"]),
    st.sampled_from(["flow", "normal"]),
)
def test_images_of_any_size_survive(count, height, width, channels, decoder, prior):
    options = {"window": "4x2"} if decoder == "4x2" else {"likelihood": decoder}
    model, guide = programs(height, width, channels=channels, prior=prior, **options)
    x = images(count, height, width, channels)
    codec = LosslessCodec(model, guide)
    assert torch.equal(codec.decompress(codec.compress(x, verify=False)), x)


def test_one_image_and_several_batches():
    model, guide = programs()
    initialize(model, guide, images(64))
    codec = LosslessCodec(model, guide)
    for count in (1, 200):
        x = images(count)
        assert torch.equal(codec.decompress(codec.compress(x)), x)


def test_negative_zeros_are_zeros():
    codec = LosslessCodec(*programs())
    x = images(20)
    data = codec.compress(torch.where(x == 0, -0.0, x))
    assert torch.equal(codec.decompress(data), x) and data == codec.compress(x)


def test_nothing_about_the_programs_changes():
    model, guide = programs()
    model.train(), guide.train()
    state, random = torch.get_rng_state(), torch.random.initial_seed()
    codec = LosslessCodec(model, guide)
    codec.decompress(codec.compress(images(3)))
    assert torch.equal(torch.get_rng_state(), state) and torch.random.initial_seed() == random
    assert model.training and guide.training
    layers = [m for m in model.modules() if isinstance(m, WeightNormLayer)]
    assert layers and not any(layer.initialized for layer in layers)


def test_the_file_is_as_long_as_the_bound(pretrained, digits):
    codec = LosslessCodec(*pretrained)
    data = codec.compress(digits, verify=False)
    assert torch.equal(codec.decompress(data), digits)
    torch.manual_seed(0)
    scored = marginal_log_likelihood(*pretrained, digits, num_samples=16)
    bound = -scored.elbo.sum().item() / np.log(2)
    header = len(data) - Container.unpack(data).words.nbytes
    assert header < 120
    # Besides the bound, the first image's initial bits; one code per image is a noisy estimate.
    assert abs(8 * (len(data) - header) - 500 - bound) < 150


def test_popped_codes_are_samples_of_the_guide(pretrained, digits):
    codec = LosslessCodec(*pretrained)
    residuals = []
    original = codec._on_grid

    def record(symbols, rows):
        residuals.append(symbols)
        return original(symbols, rows)

    codec._on_grid = record
    codec.compress(digits, verify=False)
    with torch.no_grad():
        q = codec.guide.posterior(digits)
    z = torch.from_numpy(np.concatenate(residuals)).view_as(q.mean) * codec.delta
    standardized = (z - q.mean) / q.stddev
    assert standardized.mean().abs() < 4 / standardized.numel() ** 0.5
    # The grid's own rounding adds delta^2 / 12.
    expected = (1 + codec.delta**2 / 12 / q.stddev**2).mean()
    assert standardized.square().mean() == pytest.approx(expected.item(), abs=0.12)


def test_two_processes_write_the_same_bytes(pretrained):
    x = load_dataset("digits").test.batch(slice(0, 5))
    data = LosslessCodec(*pretrained).compress(x, verify=False)
    program = (
        "import hashlib, torch; torch.set_num_threads(2)\n"
        "from pyro_vlae.codec import LosslessCodec\n"
        "from pyro_vlae.data import load_dataset\n"
        "from pyro_vlae.models import load_pretrained\n"
        "x = load_dataset('digits').test.batch(slice(0, 5))\n"
        "torch.rand(7)\n"
        "data = LosslessCodec(*load_pretrained('static-mnist')).compress(x, verify=False)\n"
        "print(hashlib.sha256(data).hexdigest())"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(data).hexdigest()


def test_altered_files_are_refused_or_exact():
    model, guide = programs()
    x = images(20)
    codec = LosslessCodec(model, guide)
    data = codec.compress(x)
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        altered = bytearray(data)
        position = rng.integers(6, len(data) - 4)
        altered[position] ^= 1 << rng.integers(8)
        # Half of them with the right checksum, so that the other checks have to notice.
        altered = with_checksum(bytes(altered)) if trial % 2 else bytes(altered)
        try:
            assert torch.equal(codec.decompress(altered), x)
        except CodecError:
            refused += 1
    assert refused == 60


def test_a_wrong_number_of_batches_is_noticed():
    codec = LosslessCodec(*programs())
    file = Container.unpack(codec.compress(images(20)))
    for numbers in (
        (*file.numbers[:4], 10**9, *file.numbers[5:]),
        (*file.numbers[:5], 10**9, *file.numbers[6:]),
        (*file.numbers[:6], 10**9, *file.numbers[7:]),
        file.numbers[:4],
        file.numbers[:2],
    ):
        with pytest.raises(CodecError):
            codec.decompress(dataclasses.replace(file, numbers=numbers).pack())


def test_another_model_or_guide_is_refused():
    model, guide = programs()
    data = LosslessCodec(model, guide).compress(images(3))
    other_model, other_guide = programs(width=6)[0], programs(height=3, width=5)[1]
    with torch.no_grad():
        next(other_guide.parameters()).view(-1)[0] += 1e-3
    for other in (
        LosslessCodec(other_model, GaussianGuide(code_dim=4, image_shape=(1, 3, 6))),
        LosslessCodec(model, other_guide),
    ):
        with pytest.raises(CodecError, match="another model or guide"):
            other.decompress(data)


def test_other_versions_and_machines_are_named(monkeypatch):
    codec = LosslessCodec(*programs())
    data = codec.compress(images(3))
    here = container.environment()
    monkeypatch.setattr(
        "pyro_vlae.codec.lossless.environment", lambda: ("torch 3.0", *here[1:2], "CPU arm64 NEON")
    )
    with pytest.raises(CodecError, match=r"here: torch 3.0.*here: CPU arm64 NEON"):
        codec.decompress(data)


def test_a_machine_that_rounds_differently_is_noticed(monkeypatch):
    model, guide = programs()
    x = images(20)
    codec = LosslessCodec(model, guide)
    data = codec.compress(x)
    original = codec._likelihood
    monkeypatch.setattr(codec, "_likelihood", lambda z: original(z * (1 + 1e-6)))
    with pytest.raises(CodecError, match="rounds differently"):
        codec.decompress(data)
    calls = itertools.count()  # not deterministic: `compress` itself has to notice
    monkeypatch.setattr(codec, "_likelihood", lambda z: original(z * (1 + 1e-3 * next(calls))))
    with pytest.raises(CodecError, match="rounds differently"):
        codec.compress(x)


def test_wrong_images_are_refused():
    codec = LosslessCodec(*programs())
    for x, message in (
        (images(2, width=6), r"shape \(N, 1, 3, 5\)"),
        (images(2)[0], r"shape \(N, 1, 3, 5\)"),
        (images(2)[:0], "N at least 1"),
        (images(2).double(), "float64"),
        (images(2) * 0.5, "binarize"),
        (images(2).to("meta"), "on the CPU.*on meta"),
    ):
        with pytest.raises(CodecError, match=message):
            codec.compress(x)


def test_defaults_of_torch_do_not_matter():
    x, (model, guide) = images(3), programs()
    data = LosslessCodec(model, guide).compress(x)
    torch.set_default_dtype(torch.float64)
    try:
        codec = LosslessCodec(model, guide)
        assert codec.compress(x) == data
        assert torch.equal(codec.decompress(data), x)
    finally:
        torch.set_default_dtype(torch.float32)


class RealEmission:
    support = torch.distributions.constraints.real

    def __call__(self, parameters):
        return torch.distributions.Normal(parameters, 1.0)


def test_programs_that_cannot_code_without_loss_are_refused():
    model, guide = programs()
    sizes = ResNetArchitecture(image_shape=(1, 3, 5), code_dim=4, channels=(4,))
    iaf = IAFGuide(architecture=sizes, layers=1, hidden_dims=(8,), context_dim=4)
    with pytest.raises(CodecError, match="diagonal Gaussian"):
        LosslessCodec(model, iaf).compress(images(1))
    with pytest.raises(CodecError, match="without prior"):
        LosslessCodec(unconditional_pixelcnn(), guide)
    with pytest.raises(CodecError, match="float64"):
        LosslessCodec(model, programs()[1].double())
    real = PixelCNN(model.likelihood.network, torch.zeros(1, 4, 3, 5), emission=RealEmission())
    with pytest.raises(CodecError, match="this PixelCNN has another one: use BernoulliEmission"):
        LosslessCodec(VLAE(model.prior, model.decoder, lambda features: real), guide)
    normal = VLAE(model.prior, model.decoder, lambda f: torch.distributions.Normal(f, 1.0))
    with pytest.raises(CodecError, match="PixelCNN or Bernoulli"):
        LosslessCodec(normal, guide)
