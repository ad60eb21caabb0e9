"""Recipes for piano rolls, and their score in nats per frame.

References:
    Boulanger-Lewandowski et al., "Modeling Temporal Dependencies in High-Dimensional Sequences",
    2012, arXiv:1206.6392 (the score).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vlae.data import PIANO_ROLLS
from pyro_vlae.data.midi import write_midi
from pyro_vlae.data.piano_rolls import KEYS
from pyro_vlae.experiments.binary import NoCode
from pyro_vlae.experiments.options import option
from pyro_vlae.experiments.recipes import Recipe, register
from pyro_vlae.guides.piano_roll import PianoRollGuide
from pyro_vlae.infer import FreeBitsELBO, MarginalLikelihood
from pyro_vlae.infer.distributed import rank, world_size
from pyro_vlae.infer.importance import gather_estimates
from pyro_vlae.infer.partial import PartialScores, file_of_rank, fingerprint
from pyro_vlae.infer.particles import ImportanceSamples, importance_samples
from pyro_vlae.infer.weights import PER_IMAGE
from pyro_vlae.models.piano_roll import FRAMES, piano_roll_vlae
from pyro_vlae.reproducible import evaluation_context, write_array

# Frames of all codes in one pass: more would exceed the cache of a CPU.
_FRAMES_PER_PASS = 4096


@register
@dataclass(frozen=True)
class PianoRollRecipe(Recipe):
    """A run on piano rolls; the defaults are those for JSB chorales.

    Args:
        model: ``"vlae"``, or ``"unconditional"`` for the likelihood with a learned context.
        window: past frames that the decoder sees.
        likelihood: ``"pixelcnn"`` or ``"independent"``, see `piano_roll_vlae`.
        prior: ``"flow"`` or ``"normal"``.
        guide: ``"gaussian"``.
        code_channels: values of the code for each block of 8 frames.
        hidden: channels of the likelihood's hidden layers, None for those of `piano_roll_vlae`.
        code_hidden: channels of the hidden layers of encoder and decoder.
        dropout: probability of dropping a hidden unit of the likelihood in training.
        crop: frames of the excerpts to train on.
        transpose: whether to transpose training pieces at random.
        free_nats: free bits in nats per excerpt.
        free_until: fraction of the budget after which there are no free bits.
    """

    family = "piano_roll"
    values = PIANO_ROLLS

    dataset: str = option("jsb-chorales", "one of the four sets of piano rolls", metavar="NAME")
    max_minutes: float | None = 20.0
    batch_size: int = 16
    learning_rate: float = 0.01
    num_samples: int = option(64, "importance samples per test piece", metavar="K")
    eval_images: int | None = option(None, "number of test pieces to score", metavar="N")
    model: str = option("vlae", "with or without a code", choices=("vlae", "unconditional"))
    window: int = option(8, "past frames that the decoder sees", metavar="B")
    likelihood: str = option("pixelcnn", "p(x | z)", choices=("pixelcnn", "independent"))
    prior: str = option("flow", "p(z)", choices=("flow", "normal"))
    guide: str = option("gaussian", choices=("gaussian",))
    code_channels: int = option(4, "values of the code per 8 frames", metavar="C")
    hidden: int | None = option(None, "channels of the likelihood", metavar="N")
    code_hidden: int = option(96, "channels of encoder and decoder", metavar="N")
    dropout: float = option(0.1, "dropout in the likelihood", metavar="P", or_zero=True)
    crop: int = option(64, "frames of the excerpts to train on", metavar="N")
    transpose: bool = True
    free_nats: float = option(8.0, "free bits, nats per excerpt", metavar="N", or_zero=True)
    free_until: float = 0.5

    @property
    def has_code(self) -> bool:
        return self.model == "vlae"

    def build(self) -> tuple[nn.Module, nn.Module]:
        model = piano_roll_vlae(
            window=self.window,
            likelihood=self.likelihood,
            prior=self.prior if self.has_code else None,
            code_channels=self.code_channels,
            hidden_channels=self.hidden,
            code_hidden_channels=self.code_hidden,
            dropout=self.dropout,
        )
        guide = PianoRollGuide(self.code_channels, self.code_hidden, self.dropout)
        return model, guide if self.has_code else NoCode()

    def augmented(self, data: Any) -> Any:
        return data.augmented(self.transpose, self.crop)

    def objective(self, dimensions: int) -> ELBO:
        if not self.has_code:
            return Trace_ELBO()
        return FreeBitsELBO(lambda used: self.free_nats if used < self.free_until else 0.0)

    def score(
        self, model: nn.Module, guide: nn.Module, split: Any, index: Tensor, seed: int, file: Path
    ) -> tuple[MarginalLikelihood, dict[str, Any]]:
        score = score_pieces(model, guide, split, index, self.num_samples, seed, file)
        return score, per_frame(score, split.lengths[index])

    def pictured(self, split: Any, index: Tensor) -> Tensor:
        return split.batch(index[:32])[:, :, :FRAMES]  # whole pieces can take an hour to sample

    @property
    def sample_options(self) -> tuple[str, ...]:
        return ("frames",)

    def samples(self, model: Any, count: int, **options: Any) -> Tensor:
        return model(batch_size=count, **options)

    def write_samples(self, samples: Tensor, out: Path, title: str) -> None:
        """Write a figure, an array of keys ``(N, 1, T, 88)``, or a folder of MIDI files."""
        rolls = samples.cpu().numpy()
        if out.suffix == ".npy":
            write_array(out, rolls)
        elif out.suffix and not out.is_dir():
            super().write_samples(samples, out, title)
        else:
            out.mkdir(exist_ok=True)
            digits = len(str(len(rolls) - 1))
            for number, roll in enumerate(rolls[:, 0]):
                write_midi(out / f"sample-{number:0{digits}}.mid", roll)

    def describe_parts(self) -> str:
        keys = "lower keys" if self.likelihood == "pixelcnn" else "keys independent"
        decoder = f"{self.likelihood} likelihood (window of {self.window} frames, {keys})"
        if not self.has_code:
            return f"unconditional {decoder}"
        return f"{self.prior} prior, {self.guide} guide, {decoder}"


@torch.no_grad()
def score_pieces(
    model: nn.Module,
    guide: nn.Module,
    split: Any,
    index: Tensor,
    num_samples: int,
    seed: int = 0,
    resume_file: Path | None = None,
) -> MarginalLikelihood:
    """Score whole pieces one by one, so that no time is spent on padding.

    In a process group of `torch.distributed`, each rank scores a part of the pieces, and all return
    the scores of all pieces.

    Args:
        model: the model.
        guide: its guide.
        split: a `PianoRollSplit`, without augmentation.
        index: the pieces to score, ``(N,)``.
        num_samples: importance samples per piece.
        seed: seed of the codes.
        resume_file: as for `pyro_vlae.infer.marginal_log_likelihood`.
    """
    own, device = index.tolist()[rank() :: world_size()], split.frames.device
    done = PartialScores(None, "", len(PER_IMAGE))
    if resume_file is not None:
        settings = num_samples, seed, own, device.type
        found = fingerprint((model, guide), (split.frames, split.lengths), *settings)
        done = PartialScores(file_of_rank(resume_file), found, len(PER_IMAGE))

    def blocks() -> Iterator[tuple[ImportanceSamples, list[int]]]:
        for number in own[done.count :]:
            x = split.batch(torch.tensor([number]))
            codes = max(1, _FRAMES_PER_PASS // x.shape[-2])
            for block in importance_samples(model, guide, x, num_samples, seed, [number], codes):
                yield block, [number]

    with evaluation_context(device, model, guide):
        estimates, num_samples = gather_estimates(
            blocks(), done, len(index), device, progress=True, unit="piece"
        )
    keys = split.lengths[index].double().mean().item() * KEYS
    return MarginalLikelihood(**estimates, num_samples=num_samples, data_dims=keys)


def per_frame(score: MarginalLikelihood, lengths: Tensor) -> dict[str, Any]:
    """Scores in nats per frame: sums over all pieces, divided by the sum of their frames.

    Args:
        score: of whole pieces, in nats per piece.
        lengths: their frames, ``(N,)``.
    """
    frames = int(lengths.sum())
    nll = -score.log_prob.sum().item() / frames
    # Delta method for a ratio of sums over pieces.
    residual = -score.log_prob - nll * lengths.double()
    error = residual.std().item() * len(lengths) ** 0.5 / frames if len(lengths) > 1 else math.nan
    return {
        "nll_nats_per_frame": nll,
        "nll_nats_per_frame_standard_error": error,
        "bound_nats_per_frame": -score.elbo.sum().item() / frames,
        "kl_nats_per_frame": score.kl.sum().item() / frames,
        "num_frames": frames,
    }
