"""Transforms of sequences: inverse, volume, order, and lengths within a padded batch."""

import pytest
import torch

from pyro_vlae.nn import MaskedConvNet
from pyro_vlae.transforms.temporal import TemporalMeanOnlyAutoregressive

CHANNELS, LONGEST = 2, 5


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = MaskedConvNet(CHANNELS, (6, 6)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def sequences(*shape):
    return torch.randn(*shape, CHANNELS * LONGEST, dtype=torch.float64)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_inverse_and_the_volume(network, reverse):
    transform = TemporalMeanOnlyAutoregressive(network, torch.tensor([5, 3, 1]), reverse)
    x = sequences(4, 3)
    y = transform(x)
    torch.testing.assert_close(transform.inv(y), x)
    assert transform.log_abs_det_jacobian(x, y).shape == (4, 3)
    jacobian = torch.autograd.functional.jacobian(
        lambda one: TemporalMeanOnlyAutoregressive(network, torch.tensor([5]), reverse)(one)[0],
        x[0, :1],
    )[:, 0]
    torch.testing.assert_close(torch.det(jacobian).abs().log(), jacobian.new_zeros(()))
    # In the order of time, then channel, the Jacobian is triangular with a unit diagonal.
    order = torch.arange(CHANNELS * LONGEST).view(CHANNELS, LONGEST).T.flatten()
    ordered = jacobian[order][:, order]
    upper = (ordered.T if reverse else ordered).triu(1)
    assert (upper == 0).all() and (ordered.diagonal() == 1).all()
    assert (ordered.tril(-1) != 0).any() or reverse


@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_is_transformed_as_if_it_were_alone(network, reverse):
    lengths = torch.tensor([5, 3])
    x = sequences(2)
    y = TemporalMeanOnlyAutoregressive(network, lengths, reverse)(x)
    alone = x[1].view(CHANNELS, LONGEST)[:, :3].reshape(1, -1)
    single = TemporalMeanOnlyAutoregressive(network, lengths[1:], reverse)(alone)
    torch.testing.assert_close(y[1].view(CHANNELS, LONGEST)[:, :3], single.view(CHANNELS, 3))
