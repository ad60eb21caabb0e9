"""What PixelCNN networks for binary images share."""

from torch import Tensor, nn
from torch.distributions import Bernoulli, constraints


class BernoulliNetwork(nn.Module):
    """A network whose parameters are the logits of the pixels."""

    support = constraints.boolean

    def emission(self, parameters: Tensor) -> Bernoulli:
        """The distribution of the pixels: Bernoulli, logits ``(N, image_channels, H, W)``."""
        return Bernoulli(logits=parameters)
