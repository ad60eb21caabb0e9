"""A linear probe reads what is there."""

import pytest
import torch

from pyro_vlae.analysis import linear_probe


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
