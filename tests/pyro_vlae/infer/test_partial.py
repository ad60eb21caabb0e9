"""Scoring that is interrupted goes on with the same bits."""

import functools

import pyro
import pytest
import torch

from pyro_vlae.infer import marginal_log_likelihood, partial
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.registration import register_parameters


class Program(torch.nn.Module):
    """A module that calls a function, and adds a number to its input."""

    def __init__(self, function, shift=0.0):
        super().__init__()
        self.function, self.shift = function, shift

    def forward(self, x):
        return self.function(x, self.shift) if self.shift else self.function(x)


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


def test_a_fingerprint_ignores_registration_but_not_parameters_of_no_module():
    pyro.clear_param_store()
    module = torch.nn.Linear(2, 1)
    first = partial.fingerprint((module,), ())
    register_parameters(module)
    assert first == partial.fingerprint((module,), ())
    pyro.param("scale", torch.ones(()))
    assert first != partial.fingerprint((module,), ())
