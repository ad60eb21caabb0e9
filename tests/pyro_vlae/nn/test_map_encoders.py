import pytest
import torch

from pyro_vlae.nn import MapArchitecture, MapDecoder, MapEncoder
from pyro_vlae.nn.blocks import DenseBlock, ResidualBlock
from pyro_vlae.nn.encoders import dense_stage, residual_stage
from pyro_vlae.nn.weight_norm import WeightNormLayer

SMALL = {"image_shape": (3, 8, 12), "code_channels": 2, "channels": (4, 6, 6)}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_encoder_and_decoder_are_mirror_images_over_any_batch(dense, batch):
    a = MapArchitecture(**SMALL, dense=dense)
    assert a.code_shape == (2, 2, 3)
    encoder, decoder = MapEncoder(a), MapDecoder(a)
    x = torch.rand(*batch, 3, 8, 12) * 2 - 1
    moments = encoder(x)
    assert moments.shape == (*batch, 2 * 12)
    features = decoder(moments[..., :12])
    assert features.shape == (*batch, decoder.feature_channels, 8, 12)


def test_the_papers_sizes():
    resnet, densenet = MapArchitecture(), MapArchitecture(dense=True)
    assert resnet.code_shape == densenet.code_shape == (16, 8, 8)
    assert MapDecoder(resnet).feature_channels == 48
    assert MapDecoder(densenet).feature_channels == 51
    for part in (MapEncoder, MapDecoder):
        assert sum(isinstance(m, ResidualBlock) for m in part(resnet).modules()) == 7
        dense = [m for m in part(densenet).modules() if isinstance(m, DenseBlock)]
        assert len(dense) == 4 and all(len(block.layers) == 3 for block in dense)


@pytest.mark.parametrize("channels", [2, 3, 4, 16, 48, 96])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_dense_stage_ends_slightly_wider(channels, blocks):
    stage = dense_stage(channels, blocks)
    assert stage.in_channels == channels // 2 and channels < stage.out_channels <= channels + 5
    x = torch.randn(2, stage.in_channels, 4, 4)
    assert stage(x).shape == (2, stage.out_channels, 4, 4)


def test_a_stage_without_blocks_changes_nothing():
    for stage in (dense_stage(6, 0), residual_stage(6, 0)):
        x = torch.randn(2, stage.in_channels, 4, 4)
        assert stage.in_channels == stage.out_channels and torch.equal(stage(x), x)


def test_a_dense_layer_reads_everything_before_it_and_keeps_it():
    block = DenseBlock(3, 2)
    x = torch.randn(4, 3, 6, 6)
    y = block(x)
    assert y.shape == (4, 9, 6, 6)
    assert torch.equal(y[:, :3], x)
    assert [layer.direction.shape[1] for layer in block.layers] == [3, 5, 7]


@pytest.mark.parametrize("dense", [False, True])
def test_every_parameter_gets_a_gradient_and_layers_are_initialized_by_data(dense):
    torch.manual_seed(0)
    a = MapArchitecture(**SMALL, dense=dense)
    encoder, decoder = MapEncoder(a), MapDecoder(a)
    x = torch.rand(8, 3, 8, 12) * 2 - 1
    decoder(encoder(x)[:, :12]).square().sum().backward()
    for module in (encoder, decoder):
        layers = [m for m in module.modules() if isinstance(m, WeightNormLayer)]
        assert layers and all(layer.initialized for layer in layers)
    # Of the encoder's last layer, raw scales are not read here.
    unread = [encoder.last.scale, encoder.last.bias, encoder.last.direction]
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        gradient = parameter.grad[:2] if any(parameter is p for p in unread) else parameter.grad
        assert gradient.abs().sum() > 0


def test_a_code_position_sees_and_makes_its_own_corner():
    """Codes are maps: the flat code keeps the place of things."""
    torch.manual_seed(0)
    a = MapArchitecture((3, 32, 32), 2, (4, 4, 4), (0, 0, 0))
    encoder, decoder = MapEncoder(a), MapDecoder(a)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    encoder(x).view(4, 8, 8)[:, 0, 7].sum().backward()
    assert x.grad[..., :4, 28:].abs().sum() > 0 and not x.grad[..., 8:, :].any()
    z = torch.randn(1, 128)
    decoder(z)
    other = z.clone()
    other.view(2, 8, 8)[:, 0, 7] += 1
    change = (decoder(other) - decoder(z)).abs().sum(1)[0]
    assert change[:4, 28:].sum() > 0 and not change[8:].any() and not change[:, :20].any()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"divisible by 4.*\(3, 30, 32\)"):
        MapArchitecture((3, 30, 32))
    with pytest.raises(ValueError, match=r"one entry for each stage.*\(4, 4\)"):
        MapArchitecture(channels=(4, 4))
    a = MapArchitecture(**SMALL)
    with pytest.raises(ValueError, match=r"batch, 3, 8, 12\).*\(2, 3, 8, 8\)"):
        MapEncoder(a)(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"codes of 12 dimensions.*\(2, 2, 3\).*\(5, 11\)"):
        MapDecoder(a)(torch.rand(5, 11))
