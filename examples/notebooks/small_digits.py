"""The data and the sizes that all notebooks share: digits of 14x14 pixels, and a small model."""

import dataclasses
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO

from pyro_vlae.data import ImageSplit, load_dataset
from pyro_vlae.infer import JointOptim
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.training import TrainingSettings, fit

SMALL_FLOW = {"flow_layers": 2, "flow_hidden_dims": (64, 64)}


def load_small_digits() -> tuple[ImageSplit, ImageSplit]:
    """Training and test images of scikit-learn's digits, every other pixel."""
    data = load_dataset("digits")
    train, test = (
        dataclasses.replace(split, images=split.images[..., ::2, ::2])
        for split in (data.train, data.test)
    )
    return train, test


def small_architecture(code_dim: int = 16) -> ResNetArchitecture:
    """Encoder and decoder that train in seconds."""
    return ResNetArchitecture((1, 14, 14), code_dim, channels=(8,), features=64)


def train_quickly(
    model: Any, guide: Any, train: ImageSplit, steps: int, elbo: ELBO | None = None
) -> None:
    """Train for some steps, without a progress bar."""
    fit(
        model,
        guide,
        train,
        elbo=elbo or Trace_ELBO(),
        optimizer=JointOptim(torch.optim.Adamax, {"lr": 0.01}),
        settings=TrainingSettings(max_steps=steps),
        progress=False,
    )
