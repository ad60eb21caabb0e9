"""The state of all random generators as JSON, to continue a run where it stopped."""

import base64
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def capture_random_state(data: torch.Generator) -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators and of the data's own.

    CUDA devices are included if CUDA is in use.
    """
    version, words, gauss = random.getstate()
    name, numbers, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    on_cuda = torch.cuda.is_initialized()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(numbers).tolist(), position, has_gauss, cached],
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in torch.cuda.get_rng_state_all()] if on_cuda else [],
        "data": {"device": data.device.type, "state": _text(data.get_state())},
    }


def restore_random_state(state: dict[str, Any], data: torch.Generator) -> None:
    """Set all generators to a captured state.

    States of CUDA devices that this machine lacks are passed over. A data generator that has
    moved between CPU and CUDA cannot continue its sequence: it keeps its own state.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, numbers, position, has_gauss, cached = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (name, np.array(numbers, dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(_tensor(state["torch"]))
    devices = torch.cuda.device_count() if state["cuda"] else 0
    for device, text in enumerate(state["cuda"][:devices]):
        torch.cuda.set_rng_state(_tensor(text), device)
    if state["data"]["device"] == data.device.type:
        data.set_state(_tensor(state["data"]["state"]))


def _text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
