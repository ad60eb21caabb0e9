"""A clear error for images in another precision than the network that reads them."""

from torch import Tensor, nn


def check_precision(images: Tensor, network: nn.Module) -> None:
    """Raise a ValueError unless images have the floating-point type of the network's weights."""
    if not isinstance(images, Tensor):
        raise ValueError(
            f"the images are a {type(images).__name__}, expected a tensor: pass torch.from_numpy(x)"
        )
    weight = next(network.parameters(), images)
    if images.dtype != weight.dtype or not images.is_floating_point():
        wanted = weight.dtype if weight.is_floating_point() else "a floating-point type"
        raise ValueError(
            f"the images have dtype {images.dtype}, {type(network).__name__} reads {wanted}: "
            "convert 0/1 images with x.float(), or the network with .double() for float64 images; "
            "ImageSplit.batch scales and converts bytes"
        )
