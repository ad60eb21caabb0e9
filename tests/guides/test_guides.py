import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vlae.guides import GaussianGuide, IAFGuide, color_guide
from pyro_vlae.nn import MapArchitecture, ResNetArchitecture, ResNetEncoder
from pyro_vlae.testing import GuideContract

SHAPE = (1, 8, 8)
DIM = 4
SIZES = ResNetArchitecture(SHAPE, DIM, channels=(4, 8), features=16)


class TestGaussian(GuideContract):
    def make(self):
        return GaussianGuide(architecture=SIZES)


class TestIAF(GuideContract):
    def make(self):
        return IAFGuide(architecture=SIZES, layers=2, hidden_dims=(16,), context_dim=4)


class TestColor(GuideContract):
    image_shape = (3, 8, 8)

    def make(self):
        return color_guide(MapArchitecture(self.image_shape, 1, (4, 4, 4), (1, 0, 0)))


class TestDenseColor(TestColor):
    def make(self):
        return color_guide(MapArchitecture(self.image_shape, 1, (4, 4, 4), (1, 1, 0), dense=True))


class TestSmallIAF(TestIAF):
    def test_density_agrees_with_the_jacobian_of_the_sample(self):
        posterior = self.made().posterior(self.images(1).double())
        base, transforms = posterior.base_dist, posterior.transforms
        noise = base.rsample().detach()[0]

        def code(value):
            for transform in transforms:
                value = transform._call(value[None])[0]
            return value

        jacobian = torch.autograd.functional.jacobian(code, noise)
        expected = base.log_prob(noise[None])[0] - jacobian.slogdet().logabsdet
        self.close(posterior.log_prob(code(noise)[None])[0], expected)

    def test_every_layer_reads_the_image(self):
        guide = self.made()
        z = guide.posterior(self.images(2).double()).base_dist.sample()
        for k, transform in enumerate(guide.transforms):
            first, second = torch.zeros(2, 4).double(), torch.ones(2, 4).double()
            moved = transform.condition(second)(z) - transform.condition(first)(z)
            assert moved.abs().min() > 0, k


def test_starts_near_the_standard_normal():
    guide = GaussianGuide(DIM, SHAPE)
    posterior = guide.posterior(torch.rand(64, *SHAPE).round()).base_dist
    assert posterior.loc.std().item() == pytest.approx(0.1, rel=0.3)
    assert posterior.scale.mean().item() == pytest.approx(1.0, abs=0.05)


def test_a_code_has_unit_scale_where_the_head_says_nothing():
    class Silent(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), 2 * DIM)

    guide = GaussianGuide(DIM, encoder=nn.Identity(), head=Silent()).double()
    scale = guide.posterior(torch.zeros(2, 3).double()).base_dist.scale
    torch.testing.assert_close(scale, torch.ones(2, DIM).double(), atol=1e-15, rtol=0)


@pytest.mark.parametrize("kind", [GaussianGuide, IAFGuide])
def test_own_encoder_and_wrong_image_size(kind):
    class Pooled(nn.Module):
        out_features = 1

        def forward(self, x):
            return x.mean((-3, -2, -1)).unsqueeze(-1)

    guide = kind(64, encoder=Pooled())
    assert guide(torch.rand(5, 3, 6, 6)).shape == (5, 64)
    with pytest.raises(ValueError, match=r"1, 28, 28.*got \(2, 1, 8, 8\)"):
        kind(64)(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("kind", [GaussianGuide, IAFGuide])
def test_sizes_by_architecture_or_by_keyword(kind):
    assert kind(code_dim=70).code_dim == 70 and kind().code_dim == 64
    guide = kind(architecture=SIZES)
    assert guide.code_dim == DIM and isinstance(guide.encoder, ResNetEncoder)
    assert guide.encoder.out_features == 16
    assert kind(DIM, SHAPE, architecture=SIZES).code_dim == DIM
    with pytest.raises(ValueError, match=r"code_dim=9 contradicts the architecture.*code_dim=4"):
        kind(9, architecture=SIZES)


@pytest.mark.parametrize("kind", [GaussianGuide, IAFGuide])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_images_of_another_type_are_refused_in_plain_words(kind, dtype):
    guide = kind(architecture=SIZES)
    with pytest.raises(ValueError, match=rf"dtype {dtype}, {kind.__name__} reads torch\.float32"):
        guide(torch.zeros(2, *SHAPE, dtype=dtype))


def test_an_iaf_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"at least 1 flow layer, got layers=0.*GaussianGuide"):
        IAFGuide(layers=0)


def test_a_guide_written_in_plain_pyro_keeps_the_contract():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 4)

        def forward(self, x):
            pyro.module("plain", self)
            with pyro.plate("images", len(x), dim=-1):
                loc, raw = self.linear(x.flatten(1)).chunk(2, -1)
                return pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    class PlainContract(GuideContract):
        def make(self):
            return Plain()

    contract = PlainContract()
    for name in dir(contract):
        if name.startswith("test_") and "stock_svi" not in name:
            getattr(contract, name)()
    # pyro.module by a fixed name is the trap that register_parameters is for.
    pyro.clear_param_store()
    with pytest.raises(AssertionError, match="instance 1 that do not move"):
        contract.test_every_parameter_moves_under_stock_svi()


@pytest.mark.parametrize("contract", [TestGaussian, TestIAF, TestColor])
def test_one_image_needs_a_batch_dimension(contract):
    guide = contract().make()
    x = torch.rand(3, 8, 8) if contract is TestColor else torch.rand(SHAPE)
    with pytest.raises(ValueError, match=r"x\.unsqueeze\(0\)"):
        guide(x)
    assert guide(x.unsqueeze(0)).shape[0] == 1
