"""The diagonal Gaussian guide with the paper's ResNet encoder."""

from math import e, log

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn import ResNetArchitecture, ResNetEncoder, WeightNormLinear, check_precision
from pyro_vlae.nn.architecture import complete_architecture
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE
from pyro_vlae.registration import check_batch, register_parameters

# softplus(UNIT_SCALE) = 1: the guide starts near the standard normal.
UNIT_SCALE = log(e - 1)


class GaussianGuide(nn.Module):
    """``q(z | x) = N(mean(x), diag(scale(x)^2))``, with site ``"z"`` in an image plate.

    Args:
        code_dim: dimensions of the code, 64 if None.
        image_shape: ``(C, H, W)`` of the images, ``(1, 28, 28)`` if None.
        encoder: maps images ``(*batch, *image_shape)`` to features
            ``(*batch, encoder.out_features)``; the paper's ResNet if None.
        head: maps features to means and raw scales, ``(*batch, 2 * code_dim)``; a linear layer if
            None, ``nn.Identity()`` if the encoder itself returns these.
        architecture: the model's architecture; use it instead of code_dim and image_shape.

    Raises:
        ValueError: code_dim or image_shape contradicts the architecture.

    References:
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1.
    """

    networks = ("encoder",)  # may be compiled and run in half precision

    def __init__(
        self,
        code_dim: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        encoder: nn.Module | None = None,
        head: nn.Module | None = None,
        architecture: ResNetArchitecture | None = None,
    ) -> None:
        super().__init__()
        sizes = complete_architecture(
            architecture, ResNetArchitecture, code_dim=code_dim, image_shape=image_shape
        )
        self.code_dim = sizes.code_dim
        self.encoder = ResNetEncoder(sizes) if encoder is None else encoder
        if head is None:
            features = int(self.encoder.out_features)  # type: ignore[arg-type]
            head = WeightNormLinear(features, 2 * self.code_dim, init_scale=BRANCH_INIT_SCALE)
        self.head = head

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of codes given images ``(batch, *image_shape)``.

        Raises:
            ValueError: the images have another dtype than the weights, or encoder and head return
                the wrong number of values.
        """
        check_precision(x, self)
        moments = self.head(self.encoder(x))
        if moments.shape[-1] != 2 * self.code_dim:
            raise ValueError(
                f"the guide needs 2 x {self.code_dim} means and raw scales, encoder and head "
                f"returned shape {tuple(moments.shape)}: build them for the same code"
            )
        loc, raw_scale = moments.chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw_scale + UNIT_SCALE)).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        """Sample codes ``(batch, code_dim)`` for images ``(batch, *image_shape)``.

        Raises:
            ValueError: the images have no batch dimension, or the batch is empty.
        """
        register_parameters(self)
        check_batch(len(x))
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", check_batch_shape(self.posterior(x), x))


def check_batch_shape(posterior: dist.TorchDistribution, x: Tensor) -> dist.TorchDistribution:
    """Return the posterior of images, or raise a ValueError if they are not one batch."""
    if posterior.batch_shape != x.shape[:1]:
        raise ValueError(
            f"expected images of shape (batch, *image_shape), got {tuple(x.shape)}, which the "
            f"encoder reads as a batch of shape {tuple(posterior.batch_shape)}: give one image as "
            "x.unsqueeze(0), images without channels as x.unsqueeze(1)"
        )
    return posterior
