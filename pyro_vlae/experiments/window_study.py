"""How the decoder's window decides what the code holds: equal budgets, one model per window.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, sections 2.3 and 4.3.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn

from pyro_vlae.analysis import code_marginals, linear_probe
from pyro_vlae.data import ImageDataset
from pyro_vlae.experiments.run import EVALUATION_SEED, decompress, provenance, shuffled
from pyro_vlae.infer import FreeBitsELBO, JointOptim, marginal_log_likelihood
from pyro_vlae.reproducible import write_json
from pyro_vlae.training import DecaySchedule, TrainingResult, TrainingSettings, fit
from pyro_vlae.training.checkpoint import has_checkpoint, read_state

PICTURES = 8
BATCH_SIZE = 64
LEARNING_RATE = 0.004  # peak, of Adamax


@dataclass(frozen=True)
class StudySettings:
    """What all windows of a study have in common.

    Args:
        images: training images to see, repetitions counted.
        free_nats: floor under the KL in nats per image in the first half of the training; none in
            the second half, so that a code that is not needed can collapse. With 0 it may do so
            from the start.
        eval_images: test images to score.
        num_samples: importance samples per image.
        probe_images: training images whose codes the linear probe is fitted to; it is tested on
            as many test images, or all there are.
        seed: of everything random.
    """

    images: int = 100_000
    free_nats: float = 7.84
    eval_images: int = 500
    num_samples: int = 64
    probe_images: int = 5000
    seed: int = 0


@dataclass(frozen=True)
class WindowResult:
    """What came out for one window; nats per image.

    Attributes:
        window: its name.
        nll: test NLL, importance-sampled.
        nll_error: its standard error, from having so many test images only.
        rate: KL(q(z | x) || p(z)).
        distortion: -E log p(x | z).
        probe: accuracy of a linear probe of the codes' means.
        probe_error: its standard error.
        images_seen: in training.
        seconds: of training.
    """

    window: str
    nll: float
    nll_error: float
    rate: float
    distortion: float
    probe: float
    probe_error: float
    images_seen: int
    seconds: float


def study_window(
    window: str,
    model: nn.Module,
    guide: nn.Module,
    data: ImageDataset,
    settings: StudySettings,
    out: Path,
) -> tuple[WindowResult, Tensor]:
    """Train (or go on training) one model, and say what its code holds.

    Args:
        window: a name for it.
        model: with this window; sites ``"z"`` and ``"x"``.
        guide: its guide, ``"z"`` with a mean in closed form.
        data: labeled images, on the device of model and guide.
        settings: budget and evaluation.
        out: folder for the checkpoint, the metrics and ``window.json``.

    Returns:
        The figures, and a decompression of each of the first test images ``(8, C, H, W)``.

    Raises:
        ValueError: the data set has no labels, or the folder holds a study of another length.
    """
    if data.train.labels is None or data.test.labels is None:
        raise ValueError(f"{data.name} has no labels for the probe; use mnist or digits")
    result, optimizer = _train(model, guide, data, settings, out)
    index = shuffled(len(data.test), settings.eval_images)
    x = data.test.batch(index)
    with optimizer.averaged(), torch.no_grad(), pyro.validation_enabled(False):
        pyro.set_rng_seed(settings.seed)
        pictures = decompress(model, guide, data.test.batch(shuffled(len(data.test), PICTURES)))
        score = marginal_log_likelihood(
            model, guide, x, settings.num_samples, seed=EVALUATION_SEED, image_index=index
        )
        codes, labels = [], []
        for split in (data.train.binarize(EVALUATION_SEED), data.test):
            chosen = split.take(shuffled(len(split), settings.probe_images))
            assert chosen.labels is not None
            codes.append(code_marginals(guide, chosen.batch(slice(None))).mean)
            labels.append(chosen.labels)
    probe = linear_probe(codes[0], labels[0], codes[1], labels[1])
    rate = score.kl.mean().item()
    figures = WindowResult(
        window=window,
        nll=-score.mean_log_prob,
        nll_error=score.standard_error,
        rate=rate,
        distortion=-score.elbo.mean().item() - rate,
        probe=probe.accuracy,
        probe_error=probe.standard_error,
        images_seen=result.images_seen,
        seconds=result.seconds,
    )
    content = {
        **asdict(settings),
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        **asdict(figures),
        "dataset": data.description,
        **provenance(x.device),
    }
    write_json(out / "window.json", content)
    return figures, pictures


def _train(
    model: nn.Module, guide: nn.Module, data: ImageDataset, settings: StudySettings, out: Path
) -> tuple[TrainingResult, JointOptim]:
    """With free bits first, so that every model finds out what a code is good for; then without.

    A floor that stayed would hide that a decoder does without its code.
    """
    steps = max(2, settings.images // BATCH_SIZE)
    plan = {"steps": steps, "free_nats": settings.free_nats, "seed": settings.seed}
    if has_checkpoint(out) and (before := read_state(out / "checkpoint")["config"]) != plan:
        raise ValueError(
            f"{out} was begun with {before}, now it would be {plan}: resume with the same options, "
            "or choose another --out"
        )
    for free_nats, until, decay_start in (
        (settings.free_nats, steps // 2, 1.0),
        (0.0, steps, 0.5),
    ):
        optimizer = JointOptim(
            torch.optim.Adamax,
            {"lr": LEARNING_RATE},
            clip_norm=1000.0 * BATCH_SIZE,
            ema_decay=0.998,
        )
        result = fit(
            model,
            guide,
            data.train,
            elbo=FreeBitsELBO(free_nats),
            optimizer=optimizer,
            settings=TrainingSettings(
                batch_size=BATCH_SIZE,
                max_steps=until,
                seed=settings.seed,
                schedule=DecaySchedule(start=decay_start),
                checkpoint_minutes=1.0,
                validate_every=max(1, steps // 10),
            ),
            validation=data.validation,
            out=out,
            resume=has_checkpoint(out),
            config=plan,
        )
    return result, optimizer
