"""Collective operations among the ranks (processes) of a `torch.distributed` group.

Without a process group, or in a group of one, they do nothing. All ranks must call them in the same
order.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class RankError(RuntimeError):
    """The ranks cannot work together: one is gone, or they were started differently."""


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank, from 0; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over all ranks, in one all-reduce on the first one's device.

    Raises:
        RankError: another rank is gone. The functions below raise it, too.
    """
    if world_size() == 1 or not tensors:
        return
    device = tensors[0].device
    flat = torch.cat([tensor.detach().flatten().to(device) for tensor in tensors])
    with _naming_lost_ranks():
        dist.all_reduce(flat)
    sums = flat.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by those of rank 0."""
    if world_size() > 1:
        with _naming_lost_ranks(), torch.no_grad():
            for tensor in tensors:
                value = tensor.detach().contiguous()
                dist.broadcast(value, 0)
                tensor.copy_(value)


def from_rank_0(value: T) -> T:
    """Return the value that rank 0 passes, which must be picklable."""
    values = [value]
    if world_size() > 1:
        with _naming_lost_ranks():
            dist.broadcast_object_list(values)
    return values[0]


def wait_for_all_ranks() -> None:
    """Return when all ranks have called this."""
    if world_size() > 1:
        with _naming_lost_ranks():
            dist.barrier()


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raise the same `RankError`, which names a difference, on all ranks if their facts differ."""
    if world_size() == 1:
        return
    gathered: list[Any] = [None] * world_size()
    with _naming_lost_ranks():
        dist.all_gather_object(gathered, dict(facts))
    first = gathered[0]
    for number, other in enumerate(gathered):
        for name in first | other:
            if first.get(name) != other.get(name):
                raise RankError(
                    f"the ranks were started differently: rank {number} has {name} "
                    f"{other.get(name)}, rank 0 has {first.get(name)}; start all of them with the "
                    "same code, data, and options"
                )


@contextmanager
def _naming_lost_ranks() -> Iterator[None]:
    """Explain the error of a collective operation in which another rank is missing."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"rank {rank()} of {world_size()} lost contact with another rank, which was killed, "
            "failed (see its own message), or hangs; resume the run from its last checkpoint. "
            f"The error was: {error}"
        ) from error
