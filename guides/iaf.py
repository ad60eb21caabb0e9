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

from pyro_vlae.guides.gaussian import UNIT_SCALE
from pyro_vlae.nn import ResNetEncoder, WeightNormLinear
from pyro_vlae.nn.weight_norm import BRANCH_INIT_SCALE
from pyro_vlae.registration import register_parameters


class IAFGuide(nn.Module):
    """A diagonal Gaussian pushed through affine autoregressive steps that also read the image.

    Drawing codes and scoring those very codes is parallel; scoring other codes takes one pass per
    dimension.

    Args:
        code_dim: dimensions of the code.
        image_shape: ``(C, H, W)`` of the images.
        encoder: as in `GaussianGuide`.
        steps: number of steps; the order of dimensions is reversed between them.
        hidden_dims: hidden layers of each step's MADE, each at least code_dim.
        context_dim: features of the image that the steps read.

    References:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
        arXiv:1606.04934.
    """

    def __init__(
        self,
        code_dim: int = 64,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        encoder: nn.Module | None = None,
        steps: int = 4,
        hidden_dims: Sequence[int] = (640, 640),
        context_dim: int = 64,
    ) -> None:
        super().__init__()
        self.code_dim = code_dim
        self.context_dim = context_dim
        self.encoder = ResNetEncoder(image_shape) if encoder is None else encoder
        features = int(self.encoder.out_features)  # type: ignore[arg-type]
        self.head = WeightNormLinear(
            features, 2 * code_dim + context_dim, init_scale=BRANCH_INIT_SCALE
        )
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
            for k in range(steps)
        )

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of codes given images ``(batch, C, H, W)``: batch shape ``(batch,)``."""
        sizes = [self.code_dim, self.code_dim, self.context_dim]
        loc, raw_scale, context = self.head(self.encoder(x)).split(sizes, -1)
        base = dist.Normal(loc, F.softplus(raw_scale + UNIT_SCALE)).to_event(1)
        steps = [
            cast(ConditionalAffineAutoregressive, step).condition(context)
            for step in self.transforms
        ]
        return dist.TransformedDistribution(base, steps)

    def forward(self, x: Tensor) -> Tensor:
        """The inference program: draw codes ``(batch, code_dim)`` for images."""
        register_parameters(self)
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
