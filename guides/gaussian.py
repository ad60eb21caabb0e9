"""The diagonal Gaussian guide with the paper's ResNet encoder."""

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.nn import ResNetEncoder, WeightNormLinear
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE
from pyro_vlae.registration import register_parameters

# softplus(UNIT_SCALE) = 1: the guide starts near the standard normal.
UNIT_SCALE = 0.5413


class GaussianGuide(nn.Module):
    """``q(z | x) = N(mean(x), diag(scale(x)^2))``, site ``"z"`` in an image plate.

    Args:
        code_dim: dimensions of the code.
        image_shape: ``(C, H, W)`` of the images.
        encoder: maps images ``(*batch, C, H, W)`` to features ``(*batch, encoder.out_features)``;
            the paper's ResNet if None.
        head: maps the encoder's features to means and raw scales, ``(*batch, 2 * code_dim)``; a
            linear layer if None. ``nn.Identity()`` for an encoder that ends in them itself.

    References:
        Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 4.1.
    """

    def __init__(
        self,
        code_dim: int = 64,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        encoder: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.code_dim = code_dim
        self.encoder = ResNetEncoder(image_shape) if encoder is None else encoder
        if head is None:
            features = int(self.encoder.out_features)  # type: ignore[arg-type]
            head = WeightNormLinear(features, 2 * code_dim, init_scale=BRANCH_INIT_SCALE)
        self.head = head

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of codes given images ``(batch, C, H, W)``: batch shape ``(batch,)``."""
        moments = self.head(self.encoder(x))
        if moments.shape[-1] != 2 * self.code_dim:
            raise ValueError(
                f"the guide needs 2 x {self.code_dim} means and raw scales, encoder and head gave "
                f"a tensor of shape {tuple(moments.shape)}: build them for the same code"
            )
        loc, raw_scale = moments.chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw_scale + UNIT_SCALE)).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        """The inference program: draw codes ``(batch, code_dim)`` for images."""
        register_parameters(self)
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
