"""How models are sampled, and how their samples are written."""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from pyro_vlae.data import Values
from pyro_vlae.infer import decode
from pyro_vlae.plots import plot_samples, save_figure
from pyro_vlae.reproducible import write_array


class SampleHooks:
    """The part of a `Recipe` that samples its models, here those of images.

    Attributes:
        values: see `Recipe`.
    """

    values: ClassVar[Values]

    @property
    def has_code(self) -> bool:
        """Whether the model has a code, so that images can be reconstructed."""
        return True

    @property
    def sample_options(self) -> tuple[str, ...]:
        """The options that `samples` takes."""
        return ("temperature", "prior_temperature") if self.has_code else ()

    def samples(self, model: Any, count: int, **options: Any) -> Tensor:
        """Sample ``count`` images from a model; ``options`` are among `sample_options`."""
        if not self.has_code:
            return model(batch_size=count)
        prior = model.prior(temperature=options.get("prior_temperature", 1.0))
        return decode(model, prior.sample((count,)), temperature=options.get("temperature", 1.0))

    def write_samples(self, samples: Tensor, out: Path, title: str) -> None:
        """Write samples as a figure or, if the file's name ends in ``.npy``, an array in [0, 1]."""
        images = self.values.to_unit_range(samples)
        if out.suffix == ".npy":
            channels = samples.shape[1]  # plots of gray images have three
            write_array(out, images[:, :channels].numpy())
        else:
            save_figure(plot_samples(images, title), out)
