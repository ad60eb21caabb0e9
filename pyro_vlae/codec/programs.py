"""What the codecs ask of models and guides."""

import inspect
from typing import Any

from torch import Tensor, nn

from pyro_vlae.codec.container import CodecError
from pyro_vlae.infer.particles import sample_sites
from pyro_vlae.infer.traces import run


def check_model(model: Any) -> None:
    """Raise a CodecError unless the model has the parts of a VLAE."""
    missing = [
        name for name in ("prior", "decoder", "likelihood") if getattr(model, name, None) is None
    ]
    if missing:
        raise CodecError(
            f"a codec needs a VLAE, got a {type(model).__name__} without {', '.join(missing)}"
        )
    # The prior of piano rolls, whose code grows with the piece, needs the pieces' lengths.
    needed = (
        [
            name
            for name, parameter in inspect.signature(model.prior.forward).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if isinstance(model.prior, nn.Module)
        else []
    )
    if needed:
        raise CodecError(
            f"a codec needs a prior without arguments, got one that needs {', '.join(needed)}: "
            "models of piano rolls cannot compress; see examples/piano_rolls.py"
        )


def check_tensor(images: Any) -> None:
    """Raise a CodecError unless the images are a tensor."""
    if not isinstance(images, Tensor):
        raise CodecError(
            f"expected a tensor of images (N, C, H, W), got {type(images).__name__}: pass "
            "torch.from_numpy(x)"
        )


def posterior(guide: Any, x: Tensor) -> Any:
    """The guide's distribution q(z | x) of the codes of images ``(N, C, H, W)``.

    Raises:
        CodecError: the guide samples other sites than ``"z"``.
    """
    sites = {name: site["fn"] for name, site in sample_sites(run(guide, x))}
    if sites.keys() != {"z"}:
        raise CodecError(
            "a codec needs a guide whose only site is z, got a guide that samples "
            f"{', '.join(sites) or 'nothing'}"
        )
    return sites["z"]
