"""A VLAE for images of 256 gray levels, such as Fashion-MNIST or X-rays."""

from collections.abc import Sequence

from torch import nn

from pyro_vlae.models.binary import binary_vlae, pixel_network
from pyro_vlae.models.likelihoods import PixelCNNLikelihood
from pyro_vlae.models.vlae import VLAE
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.nn.architecture import complete_architecture


def gray_vlae(
    *,
    architecture: ResNetArchitecture | None = None,
    code_dim: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    prior: str | nn.Module = "flow",
    flow_layers: int = 4,
    flow_hidden_dims: Sequence[int] = (640, 640),
    mixtures: int = 5,
    tied: bool = True,
    masked_layers: int | None = None,
    kernel_size: int | None = None,
    window: str | None = None,
    pixelcnn_channels: int = 24,
) -> VLAE:
    """`binary_vlae` with gray levels: a pixel is a mixture of discretized logistics.

    Level k of 0 to 255 has the value ``k / 127.5 - 1``. Build the guide from the same architecture
    or sizes. The paper has no such model.

    Args:
        architecture: sizes of image, code, and decoder, those of `binary_vlae` if None.
        code_dim: as in `binary_vlae`.
        image_shape: as in `binary_vlae`.
        prior: as in `binary_vlae`.
        flow_layers: as in `binary_vlae`.
        flow_hidden_dims: as in `binary_vlae`.
        mixtures: number of discretized logistics in each pixel's mixture.
        tied: as in `binary_vlae`.
        masked_layers: as in `binary_vlae`.
        kernel_size: as in `binary_vlae`.
        window: as in `binary_vlae`.
        pixelcnn_channels: channels of the PixelCNN's hidden layers.

    Raises:
        ValueError: as for `binary_vlae`.

    References:
        Salimans et al., "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
        Likelihood and Other Modifications", 2017, arXiv:1701.05517 (the mixture).

    Example:
        >>> sizes = ResNetArchitecture(image_shape=(1, 20, 20), code_dim=16)
        >>> model, guide = gray_vlae(architecture=sizes), GaussianGuide(architecture=sizes)
    """
    sizes = complete_architecture(
        architecture, ResNetArchitecture, code_dim=code_dim, image_shape=image_shape
    )
    pixelcnn = pixel_network(
        sizes.image_shape[0],
        sizes.feature_channels,
        mixtures=mixtures,
        tied=tied,
        masked_layers=masked_layers,
        kernel_size=kernel_size,
        window=window,
        pixelcnn_channels=pixelcnn_channels,
    )
    return binary_vlae(
        architecture=sizes,
        prior=prior,
        likelihood=PixelCNNLikelihood(pixelcnn),
        flow_layers=flow_layers,
        flow_hidden_dims=flow_hidden_dims,
    )
