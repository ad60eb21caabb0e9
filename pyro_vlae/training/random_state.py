"""The states of all random generators, to continue a run where it stopped."""

from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor


def capture_random_state(data: torch.Generator) -> dict[str, Any]:
    """States of the generators of Python, NumPy, torch (with CUDA, if in use) and the data."""
    state = pyro.util.get_rng_state()
    name, words, *rest = state["numpy"]
    state["numpy"] = (name, torch.from_numpy(words.astype(np.int64)), *rest)
    state["cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    state["data"] = {data.device.type: data.get_state()}
    return state


def restore_random_state(state: dict[str, Any], data: torch.Generator) -> None:
    """Set all generators to a captured state.

    States of CUDA devices that this machine lacks are ignored. If the data have moved between CPU
    and CUDA, their generator cannot continue its sequence and keeps its own state.
    """
    name, words, *rest = state["numpy"]
    pyro.util.set_rng_state({**state, "numpy": (name, words.numpy().astype(np.uint32), *rest)})
    devices = torch.cuda.device_count() if state["cuda"] else 0
    for device, of_device in enumerate(state["cuda"][:devices]):
        torch.cuda.set_rng_state(of_device, device)
    of_data: Tensor | None = state["data"].get(data.device.type)
    if of_data is not None:
        data.set_state(of_data)
