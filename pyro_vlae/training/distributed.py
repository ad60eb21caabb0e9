"""Training by several ranks: what must be equal at the start, and what each step shares."""

import contextlib
import hashlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
from pyro.infer import SVI
from torch import Tensor, nn

from pyro_vlae.infer.distributed import (
    broadcast,
    check_agreement,
    from_rank_0,
    rank,
    wait_for_all_ranks,
    world_size,
)
from pyro_vlae.infer.initialize import initialize
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.reproducible import hash_tensor
from pyro_vlae.training.interrupts import InterruptFlag
from pyro_vlae.training.settings import TrainingSettings
from pyro_vlae.training.validation import ImageSource
from pyro_vlae.training.weights import named_parameters

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def torchrun_ranks() -> Iterator[None]:
    """Join the process group if `torchrun` has started this process; only rank 0 prints.

    Tensors on GPUs are exchanged by NCCL, all others by gloo.
    """
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        yield
        return
    dist.init_process_group()
    with contextlib.ExitStack() as stack:
        if rank() > 0:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
    dist.destroy_process_group()


@contextlib.contextmanager
def one_rank_first() -> Iterator[None]:
    """Let one rank of each machine run a ``with`` block before the others, e.g. to download."""
    local_rank = int(os.environ.get("LOCAL_RANK", rank()))
    if local_rank > 0:
        wait_for_all_ranks()
    try:
        yield
    finally:
        if local_rank == 0:
            wait_for_all_ranks()


def initialize_all(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    modules: Mapping[str, nn.Module],
    x: Tensor,
) -> None:
    """Initialize model and guide on rank 0, and copy parameters and buffers to the others."""
    if rank() == 0:
        initialize(model, guide, x)
    broadcast(list(nn.ModuleDict(dict(modules)).state_dict().values()))


def run_facts(
    images: Mapping[str, ImageSource | None],
    settings: TrainingSettings,
    modules: Mapping[str, nn.Module],
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """What all ranks of a run must have in common, by a name for messages; empty for one rank.

    Args:
        images: sets of images by name, compared by their hashes.
        settings: compared except for the schedule, a function.
        modules: their parameters are compared by shape.
        others: JSON values.
    """
    if world_size() == 1:
        return {}
    numbers = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "schedule"}
    parameters = named_parameters(modules).items()
    shapes = {f"the parameter {name} of shape": tuple(p.shape) for name, p in parameters}
    hashes = {name: source and digest_of(source.images) for name, source in images.items()}
    return {"torch": torch.__version__, **hashes, **numbers, **others, **shapes}


def note_world_size(before: int) -> None:
    """Log that a run is resumed with another number of ranks than `before`."""
    if rank() == 0 and before != world_size():
        _log.warning("resuming with world size %d; the run so far had %d", world_size(), before)


def digest_of(tensor: Tensor) -> str:
    """The shape and a hash of a tensor, to be compared."""
    hash_tensor(digest := hashlib.blake2b(digest_size=8), tensor)
    return f"{tuple(tensor.shape)} with hash {digest.hexdigest()}"


class StepStatus:
    """The loss of a step, the clock, and signals, which all ranks must see alike.

    The loss of all ranks, the clock of rank 0, and the signals of all are summed together with the
    gradients. Without other ranks, the clock and signals are simply those of this process.

    Args:
        svi: takes the steps.
        optimizer: sums the gradients.

    Attributes:
        started: this rank's clock when training began.
        interrupt: catches the signals that this rank receives.
    """

    def __init__(self, svi: SVI, optimizer: JointOptim) -> None:
        self.interrupt = InterruptFlag()
        self.started = monotonic()
        self._optimizer = optimizer
        self._loss_and_grads = svi.loss_and_grads
        self._seconds = 0.0
        self._signal: signal.Signals | None = None
        self.shared = world_size() > 1
        if self.shared:
            svi.loss_and_grads = self._share

    @property
    def seconds(self) -> float:
        """Seconds of training so far; on all ranks, those of rank 0 at the last step."""
        return self._seconds if self.shared else monotonic() - self.started

    @property
    def signal(self) -> signal.Signals | None:
        """The signal to stop training, if there was one."""
        return self._signal if self.shared else self.interrupt.signal

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Compare the ranks' facts before the first step.

        Raises:
            RankError: the facts differ, on all ranks.
        """
        check_agreement(facts)
        self._seconds = from_rank_0(monotonic() - self.started)

    def after_step(self, loss: float) -> float:
        """The loss of all ranks in a step, given this rank's."""
        if not self.shared:
            return loss
        assert self._optimizer.summed is not None
        loss, self._seconds, *counts = self._optimizer.summed.tolist()
        received = [number for number, count in zip(_SIGNALS, counts, strict=True) if count]
        self._signal = received[0] if received else None
        return loss

    def _share(self, *args: Any, **kwargs: Any) -> float:
        """Loss and gradients of a step; the optimizer, which is called next, sums the status."""
        loss = self._loss_and_grads(*args, **kwargs)
        seconds = monotonic() - self.started if rank() == 0 else 0.0
        received = [self.interrupt.signal == number for number in _SIGNALS]
        self._optimizer.summed = torch.tensor([loss, seconds, *received])
        return loss
