import pytest
import torch
from pyro.nn import AutoRegressiveNN

from pyro_vlae.transforms import MeanOnlyAutoregressive, mean_only_autoregressive


@pytest.mark.parametrize("reverse", [False, True])
def test_jacobian_is_triangular_with_unit_diagonal_in_the_stated_order(reverse):
    torch.manual_seed(0)
    step = mean_only_autoregressive(6, (32, 32), reverse).double()
    x = torch.randn(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(step, x)
    torch.testing.assert_close(jacobian.diagonal(), torch.ones(6).double())
    earlier, later = (
        (jacobian.triu(1), jacobian.tril(-1))
        if reverse
        else (
            jacobian.tril(-1),
            jacobian.triu(1),
        )
    )
    assert not later.any()
    assert (earlier != 0).sum() == 15
    assert step.log_abs_det_jacobian(x[None], step(x[None])).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_inverse_inverts_and_passes_gradients(dtype, batch):
    torch.manual_seed(0)
    step = mean_only_autoregressive(7, (16, 16), reverse=True).to(dtype)
    y = torch.randn(*batch, 7, dtype=dtype, requires_grad=True)
    x = step.inv(y)
    assert x.dtype == dtype
    torch.testing.assert_close(step._call(x), y)
    (gradient,) = torch.autograd.grad(x.sum(), y)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_masks_and_order_follow_the_module():
    step = mean_only_autoregressive(5, (8, 8), reverse=True)
    assert step.arn.permutation.tolist() == [4, 3, 2, 1, 0]
    state = step.state_dict()
    assert "arn.permutation" in state and not [name for name in state if "mask" in name]
    step.double()(torch.randn(2, 5, dtype=torch.float64))


def test_a_network_with_scales_is_refused():
    with pytest.raises(ValueError, match=r"param_dims=\[1\].*\[1, 1\]"):
        MeanOnlyAutoregressive(AutoRegressiveNN(4, [8]))
