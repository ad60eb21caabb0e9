"""Scoring that is interrupted goes on with the same bits."""

import errno
import functools

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_vlae.guides import GaussianGuide, IAFGuide, color_guide
from pyro_vlae.guides.piano_roll import PianoRollGuide
from pyro_vlae.infer import marginal_log_likelihood, partial
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.models import (
    VLAE,
    BernoulliLikelihood,
    FlowPrior,
    binary_vlae,
    color_vlae,
    gray_vlae,
)
from pyro_vlae.models.piano_roll import piano_roll_vlae
from pyro_vlae.registration import register_parameters
from pyro_vlae.reproducible import write_atomically


class Program(torch.nn.Module):
    """A module that calls a function, and adds a number to its input."""

    def __init__(self, function, shift=0.0):
        super().__init__()
        self._function, self.shift = function, shift  # a public function is refused

    def forward(self, x):
        return self._function(x, self.shift) if self.shift else self._function(x)


class Renamed(Program):
    pass


@pytest.mark.parametrize("broken", [b"", b"PK", "halved", "other"])
def test_scoring_goes_on_with_the_same_bits(linear_gaussian, tmp_path, monkeypatch, broken):
    toy, kept = linear_gaussian(), tmp_path / "scores.partial.npz"
    x = toy.sample(7)

    def score(count=100, **options):
        model, guide = Program(toy.model), Program(toy.guide)
        return marginal_log_likelihood(model, guide, x, count, max_codes_per_chunk=200, **options)

    whole = score()
    original, calls = partial.PartialScores.add, []

    def interrupted(self, block, *rest):
        original(self, block, *rest)
        calls.append(block.shape[1])
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(partial.PartialScores, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(resume_file=kept)
    assert calls == [2, 2]
    content = kept.read_bytes()
    passes = len(toy.codes_scored)
    for _ in range(2):  # the second time, all images are done
        resumed = score(resume_file=kept)
        for name in PER_IMAGE:
            torch.testing.assert_close(
                getattr(resumed, name), getattr(whole, name), rtol=0, atol=0, equal_nan=True
            )
        assert resumed.num_samples == 100
    assert len(toy.codes_scored) == passes + 2  # images 4 to 6 in two passes
    if broken == "other":
        score(50, resume_file=kept)
    else:
        kept.write_bytes(content[: len(content) // 2] if broken == "halved" else broken)
    assert torch.equal(score(resume_file=kept).log_prob, whole.log_prob)


def test_a_fingerprint_tells_weights_and_settings_apart():
    module, x = torch.nn.Linear(2, 1), torch.zeros(3)
    first = partial.fingerprint((module,), (x,), 1)
    assert first == partial.fingerprint((module,), (x.clone(),), 1)
    assert first != partial.fingerprint((module,), (x,), 2)
    assert first != partial.fingerprint((module,), (x + 1,), 1)
    with torch.no_grad():
        module.bias.add_(1)
    assert first != partial.fingerprint((module,), (x,), 1)


def test_scores_of_another_guide_are_not_returned(linear_gaussian, tmp_path):
    toy, kept = linear_gaussian(), tmp_path / "scores.partial.npz"
    model, x = Program(toy.model), toy.sample(3)
    for shift in (0.0, 2.0):
        guide = Program(toy.guide if not shift else lambda x, s: toy.guide(x, shift=s), shift)
        expected = marginal_log_likelihood(model, guide, x, 20).log_prob
        got = marginal_log_likelihood(model, guide, x, 20, resume_file=kept).log_prob
        assert torch.equal(got, expected)
    guide = functools.partial(toy.guide, shift=0.0)
    with pytest.raises(ValueError, match=r"requires .* nn\.Modules, got functools\.partial"):
        marginal_log_likelihood(model, guide, x, 20, resume_file=kept)


def test_a_fingerprint_tells_classes_masks_and_attributes_apart():
    program = Program(None)
    program.register_buffer("mask", torch.ones(2), persistent=False)
    first = partial.fingerprint((program,), ())
    assert first == partial.fingerprint((program.train(False),), ())
    program.mask[0] = 0
    assert first != partial.fingerprint((program,), ())
    digests = [
        partial.fingerprint((other,), ())
        for other in (Program(None), Program(None, 1.0), Program(None, (1, 2)), Renamed(None))
    ]
    assert len(set(digests)) == 4


def model_with(prior):
    torch.manual_seed(0)
    return VLAE(prior, torch.nn.Linear(3, 3), BernoulliLikelihood(1))


def test_a_function_as_a_part_is_refused(tmp_path):
    x, kept = torch.zeros(1, 1, 2, 2), tmp_path / "scores.partial.npz"
    priors = [lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1), [torch.zeros(3).sum]]
    for prior in (*priors, functools.partial(priors[0])):
        with pytest.raises(ValueError, match=r"cannot compare VLAE\.prior.* Make it an nn\.Module"):
            marginal_log_likelihood(model_with(prior), Program(None), x, 5, resume_file=kept)


def test_parts_that_are_no_modules_count():
    def digest(part):
        return partial.fingerprint((Program(None, part),), ())

    class Holder:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

    parts = [
        lambda: [T.permute(3, torch.tensor([0, 1, 2]))],
        lambda: [T.permute(3, torch.tensor([2, 0, 1]))],
        lambda: [T.permute(3, torch.tensor([2, 0, 1])).inv],
        lambda: T.ComposeTransform([T.AffineTransform(0.0, torch.tensor(2.0))]),
        lambda: T.ComposeTransform([T.AffineTransform(1.0, torch.tensor(2.0))]),
        lambda: T.ComposeTransform([T.AffineTransform(1.0, torch.tensor(2.0), event_dim=1)]),
        lambda: dist.Normal(0.0, 1.0),
        lambda: dist.Normal(0.0, 3.0),
        lambda: Holder(_scale=1.0, activation=torch.relu),
        lambda: Holder(_scale=2.0, activation=torch.relu),
        lambda: Holder(_scale=2.0, activation=torch.nn.functional.elu),
        lambda: {
            "a": torch.zeros(1),
            "b": [torch.nn.Linear(1, 1)],
        },
        lambda: torch.float64,
    ]
    digests = []
    for part in parts:
        torch.manual_seed(0)
        digests.append(digest(part()))
        torch.manual_seed(0)
        assert digest(part()) == digests[-1]
    assert len(set(digests)) == len(parts)
    used = parts[1]()
    used[0].inv(used[0](torch.zeros(3)))  # leaves caches
    assert digest(used) == digests[1]


def test_a_fingerprint_of_every_model_and_guide():
    flow = FlowPrior(3, transforms=[T.permute(3), T.affine_autoregressive(3, [8], stable=True)])
    models = [binary_vlae(), gray_vlae(), color_vlae(), piano_roll_vlae(), model_with(flow)]
    automatic = AutoNormal(models[0])
    guides = [GaussianGuide(), IAFGuide(), color_guide(), PianoRollGuide(), automatic]
    automatic(torch.zeros(1, 1, 28, 28))
    for program in (*models, *guides):
        assert partial.fingerprint((program,), ()) == partial.fingerprint((program,), ())


def test_a_fingerprint_ignores_registration_but_not_parameters_of_no_module():
    pyro.clear_param_store()
    module = torch.nn.Linear(2, 1)
    first = partial.fingerprint((module,), ())
    register_parameters(module)
    assert first == partial.fingerprint((module,), ())
    pyro.param("scale", torch.ones(()))
    assert first != partial.fingerprint((module,), ())


def test_a_disk_that_fills_up_costs_no_scores(linear_gaussian, tmp_path, monkeypatch, caplog):
    toy, kept = linear_gaussian(), tmp_path / "scores.partial.npz"
    x, programs = toy.sample(7), (Program(toy.model), Program(toy.guide))
    options = {"max_codes_per_chunk": 200, "resume_file": kept}
    whole = marginal_log_likelihood(*programs, x, 100).log_prob
    written = []

    def full(path, content):
        if len(written) == room:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(partial, "_SECONDS", 0)
    monkeypatch.setattr(partial, "write_atomically", full)
    room = 0
    with pytest.raises(OSError, match="No space left"):
        marginal_log_likelihood(*programs, x, 100, **options)
    room = 2
    assert torch.equal(marginal_log_likelihood(*programs, x, 100, **options).log_prob, whole)
    assert "cannot save the scores of 7 images" in caplog.text
    passes, room = len(toy.codes_scored), -1
    assert torch.equal(marginal_log_likelihood(*programs, x, 100, **options).log_prob, whole)
    assert len(toy.codes_scored) == passes + 2  # images 0 to 3 were saved
