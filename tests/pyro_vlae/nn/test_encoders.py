import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.nn import ResidualBlock, ResNetArchitecture, ResNetDecoder, ResNetEncoder


def test_sizes_of_the_paper():
    encoder, sizes = ResNetEncoder(), []
    for block in encoder.blocks:
        block.register_forward_hook(lambda m, a, out: sizes.append(tuple(out.shape[1:])))
    assert encoder(torch.rand(2, 1, 28, 28)).shape == (2, 450)
    assert sizes == [(16, 14, 14), (16, 14, 14), (32, 7, 7), (32, 7, 7), (32, 4, 4)]
    decoder, sizes = ResNetDecoder(), []
    for block in decoder.blocks:
        block.register_forward_hook(lambda m, a, out: sizes.append(tuple(out.shape[1:])))
    assert decoder(torch.randn(2, 64)).shape == (2, 4, 28, 28)
    assert sizes == [(32, 7, 7), (32, 7, 7), (16, 14, 14), (16, 14, 14), (16, 28, 28)]


@given(
    height=st.integers(3, 33), width=st.integers(3, 33), batch=st.sampled_from([(), (2,), (2, 3)])
)
@settings(max_examples=20, deadline=None)
def test_any_image_size_and_any_leading_dimensions(height, width, batch):
    shape = (1, height, width)
    sizes = ResNetArchitecture(shape, 6, channels=(4, 8), features=10, feature_channels=3)
    assert ResNetEncoder(sizes)(torch.rand(*batch, *shape)).shape == (*batch, 10)
    assert ResNetDecoder(sizes)(torch.randn(*batch, 6)).shape == (*batch, 3, height, width)


def test_leading_dimensions_are_only_flattened():
    torch.manual_seed(0)
    encoder, decoder = ResNetEncoder().double(), ResNetDecoder().double()
    x, z = torch.rand(3, 2, 1, 28, 28).double(), torch.randn(3, 2, 64).double()
    encoder(x), decoder(z)
    torch.testing.assert_close(encoder(x)[1], encoder(x[1]))
    torch.testing.assert_close(decoder(z)[1], decoder(z[1]))


def test_residual_blocks_start_near_their_skip():
    torch.manual_seed(0)
    block, x = ResidualBlock(4, 4), torch.randn(16, 4, 8, 8)
    assert (block(x) - x).std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("kind", [ResNetEncoder, ResNetDecoder])
def test_dropout_acts_in_every_block_and_in_training_alone(kind):
    torch.manual_seed(0)
    sizes = {"image_shape": (1, 9, 9), "code_dim": 3, "channels": (4, 8), "features": 10}
    plain = kind(ResNetArchitecture(**sizes))
    network = kind(ResNetArchitecture(**sizes, dropout=0.5))
    inputs = torch.rand(2, 1, 9, 9) if kind is ResNetEncoder else torch.randn(2, 3)
    expected = plain(inputs)
    network.load_state_dict(plain.state_dict())  # weights of a model without dropout fit
    assert torch.equal(network.eval()(inputs), expected)
    dropped = [m for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(dropped) == len(network.blocks) + 1
    for module in dropped:
        module.train()
        assert not torch.equal(network(inputs), expected)
        module.eval()


def test_wrong_shapes_name_both_shapes_and_the_way_out():
    with pytest.raises(ValueError, match=r"1, 28, 28.*got \(2, 1, 32, 32\).*resize"):
        ResNetEncoder()(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"floating-point images, got torch.int64.*x.float"):
        ResNetEncoder()(torch.ones(2, 1, 28, 28, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"64 dimensions.*\(2, 10\).*the same code"):
        ResNetDecoder()(torch.rand(2, 10))


def test_the_architecture_names_its_code_and_sizes():
    sizes = ResNetArchitecture()
    assert sizes.code_shape == (64,) and sizes.code_dim == 64
    assert sizes.sizes == [(28, 28), (14, 14), (7, 7), (4, 4)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_shape": (1, 0, 0)}, r"image_shape must be a positive integer.*\(1, 0, 0\)"),
        ({"image_shape": (28, 28)}, r"image_shape must be \(channels, height, width\).*\(28, 28\)"),
        ({"code_dim": 0}, "code_dim must be a positive integer everywhere, got 0"),
        ({"code_dim": 2.5}, r"code_dim must be a positive integer everywhere, got 2\.5"),
        ({"channels": ()}, r"channels must be a positive integer everywhere, got \(\)"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1\.0"),
        ({"features": -1}, "features must be a positive integer everywhere, got -1"),
    ],
)
def test_impossible_sizes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ResNetArchitecture(**wrong)
