"""The contracts catch what they are for."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vlae.nn import MaskedResNet, PixelCNNPlusPlusNet
from pyro_vlae.registration import register_parameters
from pyro_vlae.testing import GuideContract, LikelihoodContract, NetworkContract, PriorContract


class Scaled(nn.Module):
    """A learned normal whose density is wrong by a constant factor, if one is given."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(3))
        self.factor = factor

    def forward(self):
        factor = self.factor

        class Wrong(dist.Normal):
            def log_prob(self, value):
                return super().log_prob(value) + factor - 1

        return Wrong(self.loc, 1.0).to_event(1)


class Prior(PriorContract):
    factor = 1.0

    def make(self):
        return Scaled(self.factor)


def failures(contract):
    """The tests of a contract that fail."""
    failed = []
    for name in sorted(name for name in dir(contract) if name.startswith("test_")):
        pyro.clear_param_store()
        try:
            getattr(contract, name)()
        except (AssertionError, RuntimeError, ValueError):
            failed.append(name)
    return failed


def test_a_right_prior_passes():
    assert failures(Prior()) == []


def test_a_density_that_does_not_integrate_to_one_is_caught():
    class Wrong(Prior):
        factor = 1.1

    assert failures(Wrong()) == ["test_samples_follow_the_density"]


def test_a_missing_event_dimension_is_caught():
    class Flat(Scaled):
        def forward(self):
            return super().forward().base_dist

    class Wrong(PriorContract):
        def make(self):
            return Flat()

    assert "test_is_a_distribution_over_vectors" in failures(Wrong())


@pytest.mark.parametrize("own", [False, True])
def test_a_prior_of_another_dimension_is_caught(own):
    class Named(Scaled):
        code_dim = 4 if own else 3

    class Wrong(PriorContract):
        code_dim = None if own else 4

        def make(self):
            return Named()

    assert failures(Wrong()) == ["test_is_a_distribution_over_vectors"]


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("trouble", ["one image", "float64"])
def test_a_prior_that_fails_for_one_image_or_in_double_precision_is_caught(trouble):
    class Picky(Scaled):
        def forward(self):
            scale = torch.ones(3).to(self.loc)
            if trouble == "float64" and self.training and self.loc.dtype == torch.float64:
                scale = scale * torch.nan
            return dist.Normal(self.loc, scale, validate_args=False).to_event(1)

    class PickyGuide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 2)

        def forward(self, x):
            register_parameters(self)
            loc = self.linear(x.flatten(1))
            with pyro.plate("images", len(x), dim=-1):
                if self.training:  # like batch normalization
                    loc = loc / loc.std(0, correction=0)
                return pyro.sample("z", dist.Normal(loc, 0.5, validate_args=False).to_event(1))

    class Contract(PriorContract if trouble == "float64" else GuideContract):
        def make(self):
            return Picky() if trouble == "float64" else PickyGuide()

    pyro.enable_validation(False)
    expected = "test_training_is_finite_in_both_precisions_and_on_one_image"
    assert expected in failures(Contract())


@pytest.mark.parametrize("wide", [False, True])
def test_a_guide_need_not_return_its_code(wide):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 64 if wide else 6)

        def forward(self, x):
            register_parameters(self)
            loc, scale = self.linear(x.flatten(1)).chunk(2, -1)
            with pyro.plate("images", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    class Contract(GuideContract):
        def make(self):
            return Silent()

    assert failures(Contract()) == []


def test_a_likelihood_without_parameters_passes():
    class Plain(nn.Module):
        def forward(self, features):
            return dist.Normal(features[..., :1, :, :], 1.0).to_event(3)

    class Contract(LikelihoodContract):
        def make(self):
            return Plain()

    assert failures(Contract()) == []


def test_a_tensor_outside_the_state_is_caught():
    class Hidden(Scaled):
        def __init__(self):
            super().__init__()
            self.shift = torch.randn(3)

        def forward(self):
            return dist.Normal(self.loc + self.shift.to(self.loc), 1.0).to_event(1)

    class Wrong(PriorContract):
        def make(self):
            return Hidden()

    assert failures(Wrong()) == ["test_round_trip_through_a_state_dict"]


def test_a_parameter_that_is_not_used_is_caught():
    class Idle(Scaled):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.zeros(2))

    class Wrong(PriorContract):
        def make(self):
            return Idle()

    assert failures(Wrong()) == ["test_every_parameter_moves_under_stock_svi"]


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [(False, []), (True, ["test_a_code_depends_on_its_own_image_alone"])],
)
def test_a_guide_that_mixes_images_is_caught(mixing, expected):
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 2)

        def forward(self, x):
            register_parameters(self)
            features = self.linear(x.flatten(1))
            loc = features - features.mean(0) if mixing else features
            with pyro.plate("images", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    class Contract(GuideContract):
        def make(self):
            return Guide()

    assert [name for name in failures(Contract()) if "samples_follow" not in name][:1] == expected


def test_a_likelihood_that_does_not_sum_to_one_is_caught():
    class Likelihood(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, features):
            class Wrong(dist.Bernoulli):
                def log_prob(self, value):
                    return value * self.logits  # not normalized

            return Wrong(logits=features[..., :1, :, :] + self.bias).to_event(3)

    class Contract(LikelihoodContract):
        values = (0.0, 1.0)

        def make(self):
            return Likelihood()

    found = failures(Contract())
    assert {
        "test_probabilities_of_all_images_sum_to_one",
        "test_samples_follow_the_probabilities",
    } <= set(found)


@pytest.mark.filterwarnings("ignore:Leaking is not causal")
def test_a_network_that_sees_its_own_pixel_is_caught():
    class Leaking(MaskedResNet):
        def __init__(self):
            super().__init__(1, 4, 4, 2, 1)
            self.first.mask[:, :, 1, 1] = 1

    class Contract(NetworkContract):
        values = (0.0, 1.0)

        def make(self):
            return Leaking()

    assert "test_parameters_depend_on_earlier_pixels_only" in failures(Contract())


def test_a_channel_that_sees_itself_is_caught():
    class Swapped(PixelCNNPlusPlusNet):
        def forward(self, x, context=None):
            red, green, blue = super().forward(x, context).split([6, 8, 10], 1)
            return torch.cat([green[:, :6], red, green[:, 6:], blue], 1)

    class Contract(NetworkContract):
        channel_autoregressive = True

        def make(self):
            return Swapped(4, 4, "4x2", mixtures=2)

    with pytest.raises(AssertionError, match="channel 0 depends on itself"):
        Contract().test_a_channel_depends_on_channels_before_it_only()


def test_a_network_that_hides_the_context_is_caught():
    class Blind(MaskedResNet):
        def forward(self, x, context=None):
            return super().forward(x, torch.zeros_like(context))

    class Contract(NetworkContract):
        values = (0.0, 1.0)

        def make(self):
            return Blind(1, 4, 4, 2, 1)

    with pytest.raises(RuntimeError):
        Contract().test_a_pixel_sees_the_context_at_its_own_place()
    assert "test_gradients_reach_the_features" in failures(Contract())


def test_the_contracts_need_no_pytest_and_the_package_no_contracts():
    code = (
        "import sys, pyro_vlae, pyro_vlae.models, pyro_vlae.guides, pyro_vlae.infer\n"
        "assert 'pyro_vlae.testing' not in sys.modules\n"
        "import pyro_vlae.testing\n"
        "assert 'pytest' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
