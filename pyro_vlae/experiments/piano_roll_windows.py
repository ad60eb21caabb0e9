"""How the number of past frames that the decoder sees determines what the code holds.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vlae.analysis import linear_probe
from pyro_vlae.analysis.music import estimate_key, pitch_class_counts
from pyro_vlae.data.piano_rolls import PianoRollDataset, PianoRollSplit
from pyro_vlae.experiments.pretrained import load_run
from pyro_vlae.infer import reconstruct
from pyro_vlae.infer.distributed import rank
from pyro_vlae.nn.piano_rolls import BLOCK
from pyro_vlae.reproducible import write_json


@torch.no_grad()
def probed_codes(guide: Any, split: PianoRollSplit) -> dict[str, tuple[Tensor, Tensor]]:
    """Codes and labels for linear probes, computed from whole pieces.

    Args:
        guide: a trained guide.
        split: pieces, without augmentation.

    Returns:
        ``"mode"``: the mean code of each piece ``(N, C)`` and whether its estimated key is minor.
        ``"pitch_class"``: the mean of q of each block ``(blocks, C)`` and the pitch class that
        sounds most often in it, 0 for C to 11 for B; silent blocks are left out.
    """
    means, modes, blocks, classes = [], [], [], []
    for number in range(len(split)):
        x = split.batch(torch.tensor([number]))
        roll = x[0, 0]
        counts = -(-len(roll) // BLOCK)
        code = guide.posterior(x).mean.view(-1, counts).T
        means.append(code.mean(0))
        modes.append(estimate_key(roll) // 12)
        parts = torch.nn.functional.pad(roll, (0, 0, 0, counts * BLOCK - len(roll)))
        sounding = pitch_class_counts(parts.unflatten(0, (counts, BLOCK)))
        heard = sounding.sum(-1) > 0
        blocks.append(code[heard])
        classes.append(sounding[heard].argmax(-1))
    return {
        "mode": (torch.stack(means), torch.stack(modes)),
        "pitch_class": (torch.cat(blocks), torch.cat(classes)),
    }


def probe_run(out: Path, data: PianoRollDataset, shown: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Fit linear probes from the codes of a finished run, and decompress rolls.

    Args:
        out: folder of the run; the accuracies are added to its ``results.json``.
        data: pieces without augmentation.
        shown: rolls to decompress.

    Returns:
        The content of ``results.json`` and one decompression of each shown roll.
    """
    model, guide = (module.to(shown.device) for module in load_run(out))
    train, test = probed_codes(guide, data.train), probed_codes(guide, data.test)
    card: Any = model.card
    results = dict(card["results"])
    for name in train:
        probe = linear_probe(*train[name], *test[name])
        results[f"probe_{name}"] = probe.accuracy
        results[f"probe_{name}_error"] = probe.standard_error
        # What always guessing the most frequent label of the training pieces would achieve.
        guess = train[name][1].bincount().argmax()
        results[f"probe_{name}_baseline"] = (test[name][1] == guess).double().mean().item()
    if rank() == 0:
        write_json(out / "results.json", results)
    with torch.no_grad(), pyro.validation_enabled(False):
        pyro.set_rng_seed(card["config"]["seed"])
        return results, reconstruct(model, guide, shown)


def window_rows(results: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows for `pyro_vlae.plots.plot_window_study`, per frame; the probe is of pitch classes.

    Args:
        results: content of ``results.json``, by window.
    """
    return [
        {
            "window": f"{window} frame{'s' * (window > 1)}",
            "nll": run["nll_nats_per_frame"],
            "nll_error": run["nll_nats_per_frame_standard_error"],
            "rate": run["kl_nats_per_frame"],
            "distortion": run["bound_nats_per_frame"] - run["kl_nats_per_frame"],
            "probe": run["probe_pitch_class"],
            "probe_error": run["probe_pitch_class_error"],
        }
        for window, run in results.items()
    ]
