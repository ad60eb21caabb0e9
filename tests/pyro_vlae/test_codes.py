"""What a linear probe reads from codes, and paths between them."""

import pytest
import torch

from pyro_vlae.codes import interpolate_codes, linear_probe
from pyro_vlae.models import FlowPrior, StandardNormalPrior


def test_a_probe_reads_what_is_there_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (600,), generator=generator)
    codes = torch.randn(600, 6, generator=generator)
    blind = linear_probe(codes[:400], labels[:400], codes[400:], labels[400:])
    assert abs(blind.accuracy - 0.25) < 4 * 0.031
    assert blind.standard_error == pytest.approx(
        (blind.accuracy * (1 - blind.accuracy) / 200) ** 0.5
    )
    codes[:, :4] += 20 * torch.nn.functional.one_hot(labels, 4)
    assert linear_probe(codes[:400], labels[:400], codes[400:], labels[400:]).accuracy == 1


@pytest.mark.parametrize("prior", [StandardNormalPrior(6), FlowPrior(6, 3, (12,))])
def test_a_path_between_codes_turns_their_noise(prior):
    prior = prior.double()
    generator = torch.Generator().manual_seed(1)
    ends = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    path = interpolate_codes(prior(), *ends, steps=5)
    assert path.shape == (5, 4, 6)
    torch.testing.assert_close(path[[0, -1]], ends)
    noise = path
    for transform in reversed(getattr(prior(), "transforms", [])):
        noise = transform.inv(noise)
    lengths = noise.norm(dim=-1)
    torch.testing.assert_close(lengths.diff(dim=0), lengths.diff(dim=0)[:1].expand(4, -1))
    unit = noise / lengths[..., None]
    angles = (unit[1:] * unit[:-1]).sum(-1).arccos()
    torch.testing.assert_close(angles, angles[:1].expand_as(angles))
