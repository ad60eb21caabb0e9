"""The batches of a training run, determined by its seed."""

import torch
from torch import Tensor

from pyro_vlae.infer.distributed import rank, world_size
from pyro_vlae.reproducible import derive_seed
from pyro_vlae.training.validation import ImageSource

_DATA, _ORDER = 1, 2  # what a derived seed is for


class Batches:
    """Batches of images in an order that is new for each epoch.

    In a process group of `torch.distributed`, each rank gets a part of each batch. What the data
    set samples then depends on the step and the rank: the state of rank 0 suffices to resume.

    Args:
        data: the images.
        size: images per batch; that of the data set if it is smaller. The last, incomplete batch of
            an epoch is dropped.
        seed: determines the order and what the data set samples.
        dtype: dtype of the batches.

    Raises:
        ValueError: there are more ranks than images in a batch.

    Attributes:
        size: images per batch.
        per_epoch: batches per epoch.
        generator: the generator that the data set samples with.
    """

    def __init__(self, data: ImageSource, size: int, seed: int, dtype: torch.dtype) -> None:
        self.size = min(size, len(data))
        if self.size < world_size():
            raise ValueError(
                f"a batch of {self.size} images cannot be divided among {world_size()} ranks: use "
                "larger batches, or fewer ranks"
            )
        self.per_epoch = len(data) // self.size
        self.generator = torch.Generator(device=data.images.device)
        self._data, self._seed, self._dtype = data, seed, dtype
        self._epoch, self._order = -1, torch.empty(0)

    def seed(self, *step: int) -> None:
        """Seed the generator for a new run, or for one resumed at a step on another device."""
        self.generator.manual_seed(derive_seed(self._seed, _DATA, *step))

    def __getitem__(self, step: int) -> Tensor:
        """This rank's part of the batch of a step, counted from 0 over all epochs."""
        if world_size() > 1:
            self.seed(step, rank())
        return self._sample(step, slice(rank(), None, world_size()))

    def whole(self, step: int, x: Tensor) -> Tensor:
        """The batch of a step, of which this rank has the part x."""
        return x if world_size() == 1 else self._sample(step, slice(None))

    def _sample(self, step: int, part: slice) -> Tensor:
        epoch, batch = divmod(step, self.per_epoch)
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, _ORDER, epoch))
            order = torch.randperm(len(self._data), generator=generator, device="cpu")
            self._epoch, self._order = epoch, order.to(self.generator.device)
        index = self._order[batch * self.size :][: self.size]
        return self._data.batch(index[part], self.generator).to(self._dtype)
