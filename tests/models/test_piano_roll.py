"""The VLAE of piano rolls: padding, lengths, sampling, gradients, and continuations."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.distributions import PixelCNN, sampling
from pyro_vlae.distributions.piano_roll import PianoRoll
from pyro_vlae.guides.piano_roll import PianoRollGuide
from pyro_vlae.infer import initialize, marginal_log_likelihood, reconstruct
from pyro_vlae.models.piano_roll import TemporalPrior, piano_roll_vlae
from pyro_vlae.nn.piano_rolls import PianoRollNet
from pyro_vlae.nn.wavefront import FullPasses

KEYS = 10
SIZES = {"code_channels": 2, "keys": KEYS}


@pytest.fixture(autouse=True)
def double(request):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))


def build(likelihood="pixelcnn", prior="flow", window=2):
    model = piano_roll_vlae(
        window=window,
        likelihood=likelihood,
        prior=prior,
        hidden_channels=8,
        code_hidden_channels=8,
        flow_channels=(8,),
        **SIZES,
    )
    guide = PianoRollGuide(hidden_channels=8, **SIZES)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval(), guide.eval() if prior else lambda x: None


def rolls(*lengths):
    x = (torch.rand(len(lengths), 1, max(lengths), KEYS) < 0.3).double()
    for roll, length in zip(x, lengths, strict=True):
        roll[0, length:] = -1
    return x


PARTS = [("pixelcnn", "flow"), ("pixelcnn", "normal"), ("independent", "flow"), ("pixelcnn", None)]


@pytest.mark.parametrize(("likelihood", "prior"), PARTS)
def test_batches_of_mixed_lengths_equal_single_pieces(likelihood, prior):
    model, guide = build(likelihood, prior)
    lengths = (19, 8, 3)
    x = rolls(*lengths)
    together = marginal_log_likelihood(model, guide, x, 5)
    for number, length in enumerate(lengths):
        alone = x[number : number + 1, :, :length]
        # The same codes: those of the whole batch, without the padding.
        trace = poutine.trace(guide).get_trace(x)
        if prior:
            z = trace.nodes["z"]["value"]
            blocks = -(-length // 8)
            part = z[number].view(2, -1)[:, :blocks].reshape(1, -1)
            replayed = {"z": part}
            trace_q = poutine.trace(poutine.condition(guide, data=replayed)).get_trace(alone)
            trace.compute_log_prob()
            trace_q.compute_log_prob()
            torch.testing.assert_close(
                trace.nodes["z"]["log_prob"][number], trace_q.nodes["z"]["log_prob"][0]
            )
            batch = poutine.trace(poutine.condition(model, data={"z": z})).get_trace(x)
            single = poutine.trace(poutine.condition(model, data=replayed)).get_trace(alone)
        else:
            batch = poutine.trace(model).get_trace(x)
            single = poutine.trace(model).get_trace(alone)
        for site in ("z", "x") if prior else ("x",):
            batch.compute_log_prob()
            single.compute_log_prob()
            torch.testing.assert_close(
                batch.nodes[site]["log_prob"][number], single.nodes[site]["log_prob"][0]
            )
    if not prior:
        alone = marginal_log_likelihood(model, guide, x[2:, :, :3], 1)
        torch.testing.assert_close(together.log_prob[2:], alone.log_prob)


def test_padding_never_changes_a_score():
    model, guide = build()
    x = rolls(12, 5)
    longer = torch.cat([x, torch.full((2, 1, 4, KEYS), -1.0)], -2)  # the same number of blocks
    scores = [marginal_log_likelihood(model, guide, data, 7).log_prob for data in (x, longer)]
    torch.testing.assert_close(*scores)


def test_the_score_is_the_sum_of_the_frames_before_the_end():
    network = PianoRollNet(2, 0, 8, keys=KEYS).eval()
    x = rolls(6, 4)
    lengths = torch.tensor([6, 4])
    frames = PixelCNN(network, None, image_shape=(1, 6, KEYS)).expand((2,))
    distribution = PianoRoll(frames, lengths)
    scores = distribution.frame_log_prob(x)
    assert (scores[1, 4:] == 0).all() and (scores[0] < 0).all()
    pixels = frames.pixel_log_prob(x.clamp(min=0)).sum(-1)
    torch.testing.assert_close(
        distribution.log_prob(x), torch.stack([pixels[0].sum(), pixels[1, :4].sum()])
    )
    with pytest.raises(ValueError, match="expected rolls of shape"):
        distribution.log_prob(x[:, :, :5])
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(x + 0.5)


def test_all_rolls_of_a_small_model_sum_to_one():
    network = PianoRollNet(1, 0, 4, keys=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    distribution = PianoRoll(PixelCNN(network, None, image_shape=(1, 3, 3)), torch.tensor(3))
    bits = torch.arange(512).unsqueeze(1) >> torch.arange(9) & 1
    log_prob = distribution.log_prob(bits.view(512, 1, 3, 3).double())
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones(()))


@pytest.mark.parametrize("likelihood", ["pixelcnn", "independent"])
def test_fast_sampling_equals_full_passes(likelihood, monkeypatch):
    model, _ = build(likelihood)
    samples = []
    for evaluator in (sampling.make_evaluator, lambda *arguments: FullPasses(*arguments)):
        monkeypatch.setattr(sampling, "make_evaluator", evaluator)
        pyro.set_rng_seed(3)
        samples.append(model(batch_size=4, frames=11))
    assert samples[0].shape == (4, 1, 11, KEYS) and 0 < samples[0].mean() < 1
    assert torch.equal(*samples)


def test_decompressions_are_as_long_as_the_originals():
    model, guide = build()
    x = rolls(12, 5)
    y = reconstruct(model, guide, x)
    assert torch.equal(y < 0, x < 0) and not torch.equal(y, x)


@pytest.mark.parametrize("likelihood", ["pixelcnn", "independent"])
def test_a_continuation_keeps_the_beginning(likelihood):
    model, _ = build(likelihood)
    x = rolls(12, 9)
    distribution = poutine.trace(model).get_trace(x).nodes["x"]["fn"]
    known = torch.arange(12) < 5
    y = distribution.complete(x, known)
    assert torch.equal(y[:, :, :5], x[:, :, :5]) and torch.equal(y < 0, x < 0)
    assert not torch.equal(y[:, :, 5:], x[:, :, 5:])
    with pytest.raises(ValueError, match="unknown"):
        distribution.complete(x, ~known)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_samples_of_the_prior_follow_its_density(layers):
    prior = TemporalPrior(2, layers, (8,))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    lengths = torch.tensor([16, 8])
    distribution = prior(lengths, 16)
    assert (distribution.batch_shape, distribution.event_shape) == ((2,), (4,))
    z = distribution.sample((2000,))
    assert z.shape == (2000, 2, 4)
    # Mean-only flows keep the entropy of the standard normal: 1.419 nats per dimension.
    entropy = -distribution.log_prob(z).mean(0) / torch.tensor([4.0, 2.0])
    torch.testing.assert_close(entropy, torch.full((2,), 1.4189), atol=0.06, rtol=0)


@pytest.mark.parametrize(("likelihood", "prior"), PARTS)
def test_every_parameter_is_trained(likelihood, prior):
    model, guide = build(likelihood, prior)
    model.train()
    x = rolls(19, 8, 3, 16)
    initialize(model, guide, x)
    modules = [module for module in (model, guide) if isinstance(module, torch.nn.Module)]
    before = [p.detach().clone() for module in modules for p in module.parameters()]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(20)]
    after = [p for module in modules for p in module.parameters()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="prior must be"):
        piano_roll_vlae(prior="laplace")
    with pytest.raises(ValueError, match="likelihood must be"):
        piano_roll_vlae(likelihood="bernoulli")


def test_a_model_converted_to_another_precision_generates_in_it():
    torch.set_default_dtype(torch.float32)
    for prior in ("flow", "normal", None):
        model, _ = build(prior=prior)
        assert not any("zero" in name for name in model.state_dict())
        assert model.double()(batch_size=2, frames=9).dtype == torch.float64


def test_the_guide_refuses_rolls_of_another_precision():
    _, guide = build()
    with pytest.raises(ValueError, match=r"dtype torch\.float32, PianoRollGuide reads"):
        guide(rolls(9).float())


def test_padding_before_the_end_of_a_piece_is_refused():
    model, _ = build(prior=None)
    x = rolls(9, 5)
    likelihood = model.likelihood(model.decoder(torch.tensor([9, 5]), 9), torch.tensor([9, 5]))
    expected = likelihood.log_prob(x)
    silent = torch.where(x < 0, 0.0, x)  # values after the end do not count
    assert torch.equal(likelihood.log_prob(silent), expected)
    x[1, 0, 2, 3] = -1
    with pytest.raises(ValueError, match=r"-1 \(padding\) before the end"):
        likelihood.log_prob(x)
