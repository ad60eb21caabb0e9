import subprocess
import sys
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vlae.codec import CodecError, LosslessCodec, LossyCodec
from pyro_vlae.codec.container import Container
from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.models import FlowPrior, binary_vlae, load_pretrained, unconditional_pixelcnn
from pyro_vlae.nn import ResNetArchitecture

SIZES = ResNetArchitecture(image_shape=(1, 3, 5), code_dim=4, channels=(4,))


def programs(**options):
    torch.manual_seed(0)
    options = {"flow_layers": 2, "flow_hidden_dims": (8,), **options}
    return binary_vlae(architecture=SIZES, **options), GaussianGuide(architecture=SIZES)


def images(count):
    return (torch.rand(count, 1, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()


class MixturePrior(torch.nn.Module):
    def forward(self):
        weights = dist.Categorical(logits=torch.zeros(2))
        return dist.MixtureSameFamily(weights, dist.Normal(torch.eye(2, 4), 1.0).to_event(1))


PRIORS = {
    "flow": "flow",
    "normal": "normal",
    "affine": FlowPrior(4, transforms=[dist.transforms.affine_autoregressive(4, hidden_dims=[8])]),
    "mixture": MixturePrior(),
}


@pytest.mark.filterwarnings("ignore:.*have a rate above")
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", [GaussianGuide, IAFGuide])
def test_any_prior_and_any_guide_with_a_density(prior, kind):
    options = {} if kind is GaussianGuide else {"layers": 1, "hidden_dims": (8,), "context_dim": 4}
    model, guide = programs(prior=PRIORS[prior])[0], kind(architecture=SIZES, **options)
    codec = LossyCodec(model, guide, log2_candidates=10)
    data = codec.compress(images(7))
    assert codec.compress(images(7)) == data
    assert len(data) < 70
    y = codec.decompress(data)
    assert y.shape == (7, 1, 3, 5) and ((y == 0) | (y == 1)).all()
    assert codec.codes(data).shape == (7, 4)


def test_pixels_are_sampled_anew_and_codes_are_not():
    codec = LossyCodec(*programs(), log2_candidates=8)
    data = codec.compress(images(30))
    torch.manual_seed(5)
    first, second = codec.decompress(data), codec.decompress(data)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(codec.decompress(data), first)
    assert torch.equal(codec.codes(data), codec.codes(data))


def test_codes_explain_their_images_as_well_as_samples_of_the_guide():
    model, guide = load_pretrained("static-mnist")
    torch.manual_seed(0)
    x = model(batch_size=24)
    codec = LossyCodec(model, guide, log2_candidates=14)
    with pytest.warns(UserWarning, match="rate above 12 bits"):
        data = codec.compress(x)
    with torch.no_grad():
        found = model.likelihood(model.decoder(codec.codes(data))).log_prob(x).mean()
        sampled = model.likelihood(model.decoder(guide.posterior(x).sample())).log_prob(x).mean()
        prior = model.likelihood(model.decoder(model.prior().sample((24,)))).log_prob(x).mean()
    # Fewer candidates than 2^rate: between the guide's codes and those of the prior.
    assert sampled - 12 < found < sampled + 4
    assert prior < found - 30
    assert 8 * Container.unpack(data).words.nbytes / 24 <= 18  # 14 bits, and words of 32


def test_rates_are_the_kl(monkeypatch):
    model, guide = programs(prior="normal")
    with torch.no_grad():
        guide.head.bias[:4].normal_()
        guide.head.bias[4:] = -1.0
        kl = (
            torch.distributions.kl_divergence(guide.posterior(images(9)), model.prior())
            / torch.tensor(2.0).log()
        )
    codec = LossyCodec(model, guide)
    monkeypatch.setattr("pyro_vlae.codec.lossy.RATE_SAMPLES", 4000)
    assert torch.allclose(codec.rates(images(9)).float(), kl, atol=0.15)


def test_images_with_too_high_a_rate_are_counted_and_named():
    model, guide = programs()
    with torch.no_grad():
        guide.head.bias[:4] = 2.0
    codec = LossyCodec(model, guide, log2_candidates=4)
    assert (codec.rates(images(3)) > codec.largest_rate).all()
    text = r"3 of 3 images .* above 2 bits \(index 0, 1, 2\).* \(log2_candidates of LossyCodec"
    with pytest.warns(UserWarning, match=text):
        codec.compress(images(3))


def test_another_process_reads_the_same_codes():
    codec = LossyCodec(*load_pretrained("static-mnist"), log2_candidates=20)
    program = (
        "import sys, torch\n"
        "from pyro_vlae.codec import LossyCodec\n"
        "from pyro_vlae.models import load_pretrained\n"
        "codec = LossyCodec(*load_pretrained('static-mnist'))\n"
        "codes = codec.codes(bytes.fromhex(sys.argv[1]))\n"
        "print(codes.flatten()[:5].tolist(), codes.shape)"
    )
    small = LossyCodec(codec.model, codec.guide, log2_candidates=2)
    with pytest.warns(UserWarning):
        data = small.compress(torch.zeros(3, 1, 28, 28))
    command = [sys.executable, "-W", "ignore", "-c", program, data.hex()]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    codes = codec.codes(data)
    assert other == f"{codes.flatten()[:5].tolist()} {codes.shape}"


def test_wrong_files_and_programs_are_refused():
    model, guide = programs()
    codec = LossyCodec(model, guide, log2_candidates=4)
    data = codec.compress(images(2))
    with pytest.raises(CodecError, match="without loss"):
        codec.decompress(LosslessCodec(model, guide).compress(images(2)))
    with pytest.raises(CodecError, match="with loss"):
        LosslessCodec(model, guide).decompress(data)
    with pytest.raises(CodecError, match="another model"):
        LossyCodec(programs(prior="normal")[0], guide).decompress(data)
    with pytest.raises(CodecError, match="truncated or altered"):
        codec.decompress(data[:-1])
    with pytest.raises(CodecError, match="no images"):
        codec.compress(images(2)[:0])
    for wrong in (1, 25, 6.5):
        with pytest.raises(CodecError, match=rf"an integer in 2\.\.24, got {wrong}"):
            LossyCodec(model, guide, log2_candidates=wrong)
    with pytest.raises(CodecError, match="without prior"):
        LossyCodec(unconditional_pixelcnn(), guide)

    def point(x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.Delta(torch.zeros(len(x), 4), event_dim=1))

    with pytest.raises(CodecError, match="point estimate"):
        LossyCodec(model, point).compress(images(2))
    with pytest.raises(CodecError, match="samples nothing"):
        LossyCodec(model, lambda x: None).compress(images(2))

    def planar(x):
        step = dist.transforms.planar(4)
        with pyro.plate("images", len(x), dim=-1):
            base = dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [step]))

    with pytest.raises(CodecError, match="cannot score codes other than its own samples"):
        LossyCodec(model, planar, log2_candidates=4).compress(images(2))


class VampPrior(torch.nn.Module):
    """Holds a method of the guide, so the guide is none of its modules."""

    def __init__(self, guide):
        super().__init__()
        self.posterior = guide.posterior

    def forward(self):
        components = self.posterior(images(3))
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(3)), components)


def affine(**options):
    torch.manual_seed(0)
    return dist.transforms.affine_autoregressive(4, hidden_dims=[8], **options)


def spline(bound):
    torch.manual_seed(0)
    return dist.transforms.spline_autoregressive(4, [16], count_bins=4, bound=bound)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            lambda: FlowPrior(4, transforms=[spline(3.0)]),
            lambda: FlowPrior(4, transforms=[spline(1.0)]),
        ),
        (
            lambda: FlowPrior(4, transforms=[affine().inv]),
            lambda: FlowPrior(4, transforms=[affine(stable=True).inv]),
        ),
        (lambda: VampPrior(programs()[1]), lambda: VampPrior(other_guide())),
    ],
    ids=["spline", "affine", "VampPrior"],
)
def test_files_of_a_prior_with_the_same_weights_but_other_settings_are_refused(one, other):
    model, guide = programs(prior=one())
    data = LossyCodec(model, guide, log2_candidates=4).compress(images(2))
    changed, same = programs(prior=other())[0], programs(prior=one())[0]
    for copy in (changed, same):
        copy.load_state_dict(model.state_dict())
    assert LossyCodec(same, guide).codes(data).shape == (2, 4)
    with pytest.raises(CodecError, match="another model"):
        LossyCodec(changed, guide).codes(data)


@pytest.mark.parametrize("held", [None, "flip", torch.relu, [1], [torch.relu]])
def test_attributes_called_transforms_may_be_anything(held):
    model, guide = programs()
    model.transforms = held
    codec = LossyCodec(model, guide, log2_candidates=4)
    assert codec.codes(codec.compress(images(2))).shape == (2, 4)


def other_guide():
    torch.manual_seed(1)
    return GaussianGuide(architecture=SIZES)


def test_pixels_that_the_model_cannot_generate_are_refused():
    codec = LossyCodec(*programs(), log2_candidates=4)
    with pytest.raises(CodecError, match=r"2 values, 0 to 1, .* also 255: binarize"):
        codec.compress(255 * images(2))
    with pytest.raises(CodecError, match="not finite"):
        codec.compress(images(2) * torch.nan)
    for kind in (codec, LosslessCodec(*programs())):
        with pytest.raises(
            CodecError, match=r"expected a tensor .*, got ndarray: pass .*from_numpy"
        ):
            kind.compress(images(2).numpy())


def test_versions_matter_only_where_torch_samples_the_prior(monkeypatch):
    codecs = [
        LossyCodec(programs(prior=PRIORS[n])[0], programs()[1], 4) for n in ("flow", "mixture")
    ]
    files = [codec.compress(images(2)) for codec in codecs]
    monkeypatch.setattr("pyro_vlae.codec.lossy.environment", lambda: ("torch 3.0", "", ""))
    codecs[0].decompress(files[0])
    with pytest.raises(CodecError, match=r"here: torch 3\.0"):
        codecs[1].decompress(files[1])


def test_the_device_matters_where_torch_samples_the_prior(monkeypatch):
    codec = LossyCodec(programs(prior=PRIORS["mixture"])[0], programs()[1], 4)
    data = codec.compress(images(2))
    assert Container.unpack(data).texts == (f"torch {torch.__version__}",)
    file = replace(Container.unpack(data), texts=(f"torch {torch.__version__}", "GPU NVIDIA X"))
    with pytest.raises(CodecError, match=r"GPU NVIDIA X \(here: torch .*same version and device"):
        codec.decompress(file.pack())
