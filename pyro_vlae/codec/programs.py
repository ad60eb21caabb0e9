"""What the codecs ask of models and guides."""

from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_vlae.codec.container import CodecError
from pyro_vlae.infer.particles import sample_sites


def check_model(model: Any) -> None:
    """Raise a CodecError unless the model has the parts of a VLAE."""
    missing = [name for name in ("prior", "decoder", "likelihood") if not hasattr(model, name)]
    if missing:
        raise CodecError(
            f"a codec needs a VLAE, got a {type(model).__name__} without {', '.join(missing)}"
        )


def posterior(guide: Any, x: Tensor) -> Any:
    """The guide's distribution q(z | x) of the codes of images ``(N, C, H, W)``.

    Raises:
        CodecError: the guide samples other sites than ``"z"``.
    """
    sites = {name: site["fn"] for name, site in sample_sites(poutine.trace(guide).get_trace(x))}
    if sites.keys() != {"z"}:
        raise CodecError(
            "a codec needs a guide whose only site is z, got a guide that samples "
            f"{', '.join(sites) or 'nothing'}"
        )
    return sites["z"]
