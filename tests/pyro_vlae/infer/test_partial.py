"""Scoring that is interrupted goes on with the same bits."""

import pytest
import torch

from pyro_vlae.infer import marginal_log_likelihood, partial
from pyro_vlae.infer.weights import PER_IMAGE


@pytest.mark.parametrize("broken", [b"", b"PK", "halved", "other"])
def test_scoring_goes_on_with_the_same_bits(linear_gaussian, tmp_path, monkeypatch, broken):
    toy, kept = linear_gaussian(), tmp_path / "scores.partial.npz"
    x = toy.sample(7)

    def score(count=100, **options):
        model, guide = toy.model, toy.guide
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
