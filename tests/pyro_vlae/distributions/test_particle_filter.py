"""Keys given any others, by a particle filter: exact conditionals, effective sample sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import nn
from torch.nn import functional as F

from pyro_vlae.distributions import PixelCNN, sampling
from pyro_vlae.distributions.particle_filter import systematic_resample
from pyro_vlae.distributions.piano_roll import PianoRoll
from pyro_vlae.nn import wavefront
from pyro_vlae.nn.causal import CausalConv2d
from pyro_vlae.nn.pixel_network import PixelNetwork
from pyro_vlae.nn.wavefront import FullPasses

FRAMES, KEYS = 4, 3


@pytest.fixture(autouse=True)
def double(request):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))


class Coupled(PixelNetwork):
    """Logits that are linear in the keys, with positive and negative weights, and zero on average.

    The context is added to them.
    """

    outputs = "bernoulli_logits"

    def __init__(self, channels, *convolutions):
        super().__init__()
        self.image_channels = self.context_channels = channels
        self.convolutions = nn.ModuleList(convolutions)
        with torch.no_grad():
            for layer in convolutions:
                layer.scale.fill_(1.5 * layer.direction[0].numel() ** 0.5)
                layer.bias.copy_(-layer.weight().sum((1, 2, 3)) / 2)

    def forward(self, x, context=None):
        return sum((layer(x) for layer in self.convolutions), start=context)


# Fronts of one key, of one key of several frames, and of all keys of a frame.
KINDS = {
    "keys": lambda: Coupled(
        1,
        CausalConv2d(1, 1, (2, 5), first_offset=(-2, -2)),
        CausalConv2d(1, 1, (1, 2), first_offset=(0, -2)),
    ),
    "masked": lambda: Coupled(1, CausalConv2d(1, 1, 3, image_channels=1)),
    "channels": lambda: Coupled(KEYS, CausalConv2d(KEYS, KEYS, (2, 1), first_offset=(-2, 0))),
}


def two_pieces(kind):
    """A distribution of two pieces of different lengths, with different contexts."""
    network = KINDS[kind]().eval()
    shape = (KEYS, FRAMES, 1) if kind == "channels" else (1, FRAMES, KEYS)
    return PianoRoll(PixelCNN(network, torch.randn(2, *shape)), torch.tensor([FRAMES, FRAMES - 1]))


def all_rolls():
    size = FRAMES * KEYS
    bits = torch.arange(2**size).unsqueeze(1) >> torch.arange(size) & 1
    return bits.view(-1, 1, 1, FRAMES, KEYS).double()


# The highest keys, as of a melody, and keys in no order.
MASKS = {
    "melody": torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 1, 1]]) > 0,
    "any": torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]) > 0,
}


def repeated(pieces, count):
    contexts = pieces.frames.context.repeat(count, 1, 1, 1)
    return PianoRoll(PixelCNN(pieces.frames.network, contexts), pieces.lengths.repeat(count))


@pytest.fixture(params=["slices", "gather"])
def cache(request, monkeypatch):
    """Features of earlier fronts are kept in a `FrontCache` or in a `CanvasCache`."""
    if request.param == "gather":
        monkeypatch.setattr(wavefront, "MANY", 0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_exact_conditional(kind, mask):
    pieces, count, particles = two_pieces(kind), 1000, 200
    shape = (count, 2, 1, FRAMES, KEYS)
    known = MASKS[mask].expand(2, 1, FRAMES, KEYS)
    many, mask = repeated(pieces, count), known.repeat(count, 1, 1, 1)
    # Of many values of the known keys, those with the least effective sample size.
    value = torch.rand(shape).round()
    sizes = many.resample(value.flatten(0, 1), mask, 20)[1].view(count, 2)
    value = value[sizes.argmin(0), torch.arange(2)]
    sampled, sizes = many.resample(value.repeat(count, 1, 1, 1), mask, particles)
    assert (sizes >= 0.999).all() and (sizes < particles / 2).double().mean() > 0.1
    sampled = sampled.view(shape)
    real = pieces.is_real[:, None, :, None].expand_as(known)
    assert torch.equal(sampled < 0, ~real.expand(shape))
    assert ((sampled == value) | ~known | ~real).all()
    rolls, place = all_rolls(), 2 ** torch.arange(FRAMES * KEYS).view(FRAMES, KEYS)
    for piece in range(2):
        # What is sampled after the end is discarded.
        fixed = torch.where(real[piece], value[piece], 0)
        fits = ((rolls[:, 0] == fixed) | real[piece] & ~known[piece]).all(-1).all(-1).all(-1)
        expected = count * pieces.log_prob(rolls)[fits, piece].softmax(0)
        codes = (sampled[:, piece, 0].clamp(min=0).long() * place).sum((-2, -1))
        counts = codes.bincount(minlength=len(rolls))[fits]
        # Chi-square, with rare completions counted together.
        order = expected.argsort()
        cells = (expected[order].cumsum(0) / 20).long().unique(return_inverse=True)[1]
        seen, expected = (
            torch.zeros(int(cells.max()) + 1).index_add(0, cells, number[order].double())
            for number in (counts, expected)
        )
        distance = ((seen - expected) ** 2 / expected).sum().item()
        assert len(seen) > 3 and chi2.sf(distance, len(seen) - 1) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_particles_take_their_features_along(kind, cache, monkeypatch):
    torch.manual_seed(1)
    pieces, results = repeated(two_pieces(kind), 20), []
    known = MASKS["melody"].expand(40, 1, FRAMES, KEYS)
    value = torch.rand(known.shape).round()
    for evaluator in (sampling.make_evaluator, FullPasses):
        monkeypatch.setattr(sampling, "make_evaluator", evaluator)
        torch.manual_seed(1)
        results.append(pieces.resample(value, known, 50))
    torch.testing.assert_close(*results)
    assert (results[0][1] < 25).sum() > 5  # are resampled


class Step(nn.Module):
    """The logit of a key is one of two values, depending on the key below."""

    outputs, image_channels = "bernoulli_logits", 1

    def __init__(self, silent, sounding):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([silent, sounding]).logit())

    def forward(self, x, context=None):
        below = F.pad(x[..., :-1], (1, 0))
        return torch.where(below > 0, self.logits[1], self.logits[0])


@pytest.mark.parametrize(
    ("silent", "sounding", "multiplied"),
    [(0.2, 0.2, 3), (0.2, 0.45, 3), (0.2, 0.9, 2), (0.1, 0.9, 1)],
)
def test_effective_sample_sizes_have_their_closed_form(silent, sounding, multiplied):
    # The lower key sounds with probability `silent`. The upper one is known to sound, which has
    # probability `silent` or `sounding`. All frames are independent.
    frames = PixelCNN(Step(silent, sounding), None, (1, 3, 2)).expand((3,))
    lengths = torch.tensor([3, 1, 2])
    known = torch.tensor([False, True]).expand(3, 1, 3, 2)
    rolls, sizes = PianoRoll(frames, lengths).resample(torch.ones(3, 1, 3, 2), known, 20_000)
    assert torch.equal((rolls >= 0).sum((1, 2, 3)), 2 * lengths)
    chance, weight = torch.tensor([1 - silent, silent]), torch.tensor([silent, sounding])
    ratio = (chance @ weight) ** 2 / (chance @ weight**2)
    assert ratio ** (multiplied - 1) > 0.5
    # The weights of so many frames are multiplied before the particles are resampled.
    expected = 20_000 * ratio ** lengths.clamp(max=multiplied)
    torch.testing.assert_close(sizes, expected, rtol=0.05, atol=0)


@given(
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20).filter(lambda w: sum(w) > 0.1),
    st.integers(0, 1000),
)
def test_particles_are_chosen_in_proportion_to_their_weights(weights, seed):
    torch.manual_seed(seed)
    weights = torch.tensor(weights, dtype=torch.float64)
    weights = torch.stack([weights, weights.flip(0)], 1) / weights.sum()
    chosen = systematic_resample(weights)
    for column, expected in zip(chosen.T, len(weights) * weights.T, strict=True):
        times = column.bincount(minlength=len(weights))
        assert ((times - expected).abs() < 1 + 1e-9).all()


def test_wrong_arguments_are_named():
    frames = PixelCNN(Step(0.2, 0.4), None, (1, 3, 2)).expand((2,))
    rolls, known = PianoRoll(frames, torch.tensor([3, 2])), torch.zeros(2, 1, 3, 2).bool()
    x = torch.zeros(2, 1, 3, 2)
    for arguments in ((x, known.float()), (x[:1], known[:1]), (x, known[:, 0, :, 0])):
        with pytest.raises(ValueError, match=r"must have shape \(2, 1, 3, 2\), and known must be"):
            rolls.resample(*arguments)
    with pytest.raises(ValueError, match="particles must be at least 1, got 0"):
        rolls.resample(x, known, 0)
