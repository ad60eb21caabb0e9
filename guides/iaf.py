"""The inverse-autoregressive-flow guide."""

from collections.abc import Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vlae.guides.gaussian import UNIT_SCALE, check_batch_shape
from pyro_vlae.nn import ResNetArchitecture, ResNetEncoder, WeightNormLinear, check_precision
from pyro_vlae.nn.architecture import complete_architecture
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE
from pyro_vlae.registration import check_batch, register_parameters


class IAFGuide(nn.Module):
    """A diagonal Gaussian followed by affine autoregressive layers conditioned on the image.

    Sampling codes and scoring those samples takes one parallel pass, which is all that the ELBO
    needs; scoring any other codes takes one pass per dimension.

    Args:
        code_dim, image_shape, encoder, architecture: as in `GaussianGuide`.
        layers: number of flow layers; the order of dimensions is reversed between them.
        hidden_dims: hidden layers of each flow layer's MADE, each at least code_dim.
        context_dim: number of image features that the flow layers read.

    Raises:
        ValueError: layers is less than 1, or code_dim or image_shape contradicts the architecture.

    References:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
        arXiv:1606.04934.
    """

    networks = ("encoder",)  # may be compiled and run in half precision

    def __init__(
        self,
        code_dim: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        encoder: nn.Module | None = None,
        layers: int = 4,
        hidden_dims: Sequence[int] = (640, 640),
        context_dim: int = 64,
        architecture: ResNetArchitecture | None = None,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(
                f"the guide needs at least 1 flow layer, got layers={layers}: for none, use "
                "GaussianGuide"
            )
        sizes = complete_architecture(
            architecture, ResNetArchitecture, code_dim=code_dim, image_shape=image_shape
        )
        self.code_dim = code_dim = sizes.code_dim
        self.context_dim = context_dim
        self.encoder = ResNetEncoder(sizes) if encoder is None else encoder
        features = int(self.encoder.out_features)  # type: ignore[arg-type]
        outputs = 2 * code_dim + context_dim
        self.head = WeightNormLinear(features, outputs, init_scale=BRANCH_INIT_SCALE)
        order = torch.arange(code_dim)
        self.transforms = nn.ModuleList(
            ConditionalAffineAutoregressive(
                ConditionalAutoRegressiveNN(
                    code_dim,
                    context_dim,
                    list(hidden_dims),
                    permutation=cast(torch.LongTensor, order.flip(0) if k % 2 else order),
                )
            )
            for k in range(layers)
        )

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of codes given images ``(batch, *image_shape)``."""
        check_precision(x, self)
        sizes = [self.code_dim, self.code_dim, self.context_dim]
        loc, raw_scale, context = self.head(self.encoder(x)).split(sizes, -1)
        base = dist.Normal(loc, F.softplus(raw_scale + UNIT_SCALE)).to_event(1)
        transforms = [
            cast(ConditionalAffineAutoregressive, transform).condition(context)
            for transform in self.transforms
        ]
        return dist.TransformedDistribution(base, transforms)

    def forward(self, x: Tensor) -> Tensor:
        """Sample codes ``(batch, code_dim)`` for images; see `GaussianGuide.forward`."""
        register_parameters(self)
        check_batch(len(x))
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", check_batch_shape(self.posterior(x), x))
