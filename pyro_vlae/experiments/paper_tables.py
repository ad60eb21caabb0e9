"""The paper's tables of results, one row per model, and a page that compares ours with them.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, tables 1 to 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vlae.analysis import compare_models
from pyro_vlae.experiments.recipes import RECIPES
from pyro_vlae.experiments.stored import read_results


@dataclass(frozen=True)
class Row:
    """One model of a table.

    Args:
        name: name of the row and of its folder of results.
        title: the model, in words.
        options: fields of the recipe that differ from the preset.
        paper_nll: the paper's test NLL, in nats (CIFAR-10: bits per dimension), if it states one.
        paper_rate: the paper's KL(q || p) in nats, if it states one.
    """

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    paper_nll: float | None = None
    paper_rate: float | None = None


NORMAL = {"prior": "normal"}
FACTORIZED = {"likelihood": "bernoulli"}
# The PixelCNN alone learns faster with a higher learning rate, chosen on the validation images of
# dynamic MNIST.
UNCONDITIONAL = {"model": "unconditional", "learning_rate": 0.03}
IAF_VAE = {**NORMAL, **FACTORIZED, "guide": "iaf"}
IAF_GUIDE = {**NORMAL, "guide": "iaf"}
DENSENET = {"window": "7x4", "encoder": "densenet"}
TABLES: dict[str, tuple[Row, ...]] = {
    "static-mnist": (
        Row("static-mnist-vlae", "VLAE", {}, 79.03, 13.3),
        Row("static-mnist-af-vae", "AF VAE: factorized decoder", FACTORIZED, 79.30, 25.9),
        Row("static-mnist-iaf-vae", "IAF VAE: factorized, normal prior, IAF guide", IAF_VAE, 79.88),
        Row("static-mnist-vae", "VAE: factorized decoder, normal prior", {**NORMAL, **FACTORIZED}),
        Row("static-mnist-iaf-guide", "PixelCNN decoder, normal prior, IAF guide", IAF_GUIDE),
    ),
    "mnist": (
        Row("mnist-unconditional", "Unconditional PixelCNN", UNCONDITIONAL, 87.55, 0),
        Row("mnist-normal-prior", "PixelCNN decoder, normal prior", NORMAL, 79.48, 10.60),
        Row("mnist-vlae", "VLAE (the paper's ablation: 78.94, rate 11.73)", {}, 78.53),
    ),
    "omniglot": (
        Row("omniglot-unconditional", "Unconditional PixelCNN", UNCONDITIONAL, 95.02),
        Row("omniglot-vlae", "VLAE, hyperparameters of static MNIST", {"tied": True}, 90.98),
        Row("omniglot-fine-tuned", "VLAE, fine-tuned (ours: untied)", {}, 89.83),
    ),
    "caltech101": (
        Row("caltech101-unconditional", "Unconditional PixelCNN", UNCONDITIONAL, 89.26),
        Row("caltech101-vlae", "VLAE", {}, 77.36),
    ),
}
COLOR_ROWS = (
    Row("cifar10-resnet-4x2", "ResNet VLAE, window 4x2", {"window": "4x2"}, 3.12),
    Row("cifar10-resnet-7x4", "ResNet VLAE, window 7x4", {"window": "7x4"}, 3.04),
    Row("cifar10-densenet-7x4", "DenseNet VLAE, window 7x4", DENSENET, 2.95),
)


@dataclass(frozen=True)
class Claim:
    """A ranking of two models, by the paper's NLLs where it has both.

    Args:
        text: the claim in words, the better model first.
        better: folder of the run that should have the lower NLL.
        worse: folder of the other run.
        paper: the difference in the paper, in nats, if it has both NLLs.
    """

    text: str
    better: str
    worse: str
    paper: float | None = None


# Pairs that the paper compares, of runs that saw similar numbers of images.
CLAIMS = (
    Claim(
        "PixelCNN vs. factorized decoder, flow prior",
        "static-mnist-vlae-890k",
        "static-mnist-af-vae",
        79.30 - 79.03,
    ),
    Claim("flow vs. normal prior, factorized decoder", "static-mnist-af-vae", "static-mnist-vae"),
    Claim(
        "flow prior vs. IAF guide, factorized decoder",
        "static-mnist-af-vae",
        "static-mnist-iaf-vae",
        79.88 - 79.30,
    ),
    Claim(
        "flow prior vs. IAF guide, PixelCNN decoder",
        "static-mnist-vlae-890k",
        "static-mnist-iaf-guide",
        0.6,
    ),
    Claim("flow vs. normal prior, PixelCNN decoder", "mnist-vlae-250k", "mnist-normal-prior", 0.54),
    Claim("code vs. no code", "mnist-normal-prior", "mnist-unconditional", 87.55 - 79.48),
    Claim("code vs. no code", "omniglot-795k", "omniglot-unconditional", 95.02 - 89.83),
    Claim(
        "code vs. no code (the first run also trained on the validation images)",
        "caltech101-vlae",
        "caltech101-unconditional",
        89.26 - 77.36,
    ),
)
_INTRODUCTION = (
    "Written by `python examples/results_page.py` from the `results.json` of each run: do not edit "
    "this page. NLL, bound, and rate are in nats per image on the test set (bits per dimension for "
    "CIFAR-10); lower is better. ± is the standard error over the scored images. Rows with the "
    "preset `paper` use the full recipe; `quick` rows were trained only as long as stated. A "
    "learning rate in parentheses is that of the likelihood, where it differs. With `K codes`, "
    "training maximized the importance-weighted bound of K codes per image, not the ELBO. For a "
    "run that started from another run's weights, images seen and minutes count only its own "
    "training. The device is the one that scored the run. Images differ by tens of nats, so a "
    "score on some of the test images is comparable only with scores on the same ones."
)
_HEAD = (
    "| row | paper: NLL | paper: rate | NLL | bound | rate | images seen | minutes | scored "
    "| device | preset, learning rate, batch size, seed | trained on |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)
_RANKINGS = (
    "Differences in NLL on the same test images (in nats, positive if the first run is better), "
    "with their standard errors and, in parentheses, the part due to Monte Carlo error. With few "
    "images, few samples, and runs far from convergence, the paper's rankings need not hold. The "
    "runs of a pair saw about the same number of images; other settings, see above, may differ."
)
_RANKINGS_HEAD = (
    "| comparison (expected better first) | first run (images seen, rate) | second run | paper "
    "| ours | images |",
    "|---|---|---|---|---|---|",
)


def results_page(folder: Path) -> str:
    """The paper's results and ours, in Markdown, from the run folders in a folder.

    Runs of families that are not registered are left out, with a printed note.

    Raises:
        ValueError: a ``results.json`` is damaged.
    """
    paths = sorted(folder.glob("*/results.json"))
    runs = {path.parent.name: read_results(path) for path in paths}
    # Scores per frame of music have a page of their own.
    runs = {name: run for name, run in runs.items() if "nll_nats_per_frame" not in run}
    for name in [name for name, run in runs.items() if run["family"] not in RECIPES]:
        family = runs.pop(name)["family"]
        print(f"note: {folder / name} is left out: its family {family!r} is not registered")
    lines, others = ["# Results", "", _INTRODUCTION], dict(runs)
    for dataset, rows in {**TABLES, "cifar10": COLOR_ROWS}.items():
        lines += ["", f"## {dataset}{' (bits/dim)' if rows is COLOR_ROWS else ''}", "", *_HEAD]
        lines += [_line(row, others.pop(row.name, None)) for row in rows]
        ours = [name for name, run in others.items() if run["dataset"] == dataset]
        lines += [_line(Row(name, "further run"), others.pop(name)) for name in ours]
    lines += ["", "To run the rows of the paper's table:", ""]
    lines += ["```", *(_command(row) for row in COLOR_ROWS), "```"]
    if others:
        lines += ["", "## Other data sets", "", *_HEAD]
        lines += [_line(Row(name, "further run"), run) for name, run in others.items()]
    rankings = [_ranking(claim, folder, runs) for claim in CLAIMS if _comparable(claim, folder)]
    if rankings:
        lines += ["", "## Rankings in paired comparisons", "", _RANKINGS, ""]
        lines += [*_RANKINGS_HEAD, *rankings]
    return "\n".join(lines) + "\n"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _line(row: Row, results: Mapping[str, Any] | None) -> str:
    """A line of a table; `results` are those of the row's run, or None if there is none."""
    paper = ["" if value is None else f"{value:.2f}" for value in (row.paper_nll, row.paper_rate)]
    title = f"{row.title} (`{row.name}`)"
    if results is None:
        return _cells(title, *paper, "not run yet", *[""] * 8)
    per_nat, places = 1.0, 2
    if RECIPES[results["family"]].values.unit == "bits/dim":
        per_nat, places = results["bits_per_dim"] / results["nll_nats"], 3

    codes, ranks = results.get("train_samples", 1), results.get("world_size", 1)

    def score(name: str, more: int = 0) -> str:
        value = results.get(name)  # None: cannot be estimated, e.g. from one image or one sample
        return "?" if value is None else f"{abs(value) * per_nat:.{places + more}f}"

    return _cells(
        title,
        *paper,
        f"{score('nll_nats')} ± {score('nll_standard_error')}",
        score("elbo_nats"),
        f"{score('kl_nats')} ({results['kl_bits']:.1f} bits)",
        f"{results['train_images_seen']:,}",
        f"{results['train_seconds'] / 60:.0f}",
        f"{_count(results['num_images'], 'image')}, {_count(results['num_samples'], 'sample')} "
        f"(± {score('nll_monte_carlo_error', 1)})",
        f"{ranks} x {results['device']}" if ranks > 1 else results["device"],
        f"{results['preset']}, {_learning_rate(results)}, {results.get('batch_size', '?')}, "
        f"{results['seed']}{f'; {codes} codes' if codes > 1 else ''}",
        _trained_on(results),
    )


def _trained_on(results: Mapping[str, Any]) -> str:
    splits, source = results.get("train_on", "?"), results.get("start_from")
    return f"{splits}, starting from `{Path(source).name}`" if source else splits


def _learning_rate(results: Mapping[str, Any]) -> str:
    rate, factor = results.get("learning_rate"), results.get("likelihood_learning_rate_factor", 1)
    if rate is None:
        return "?"
    return f"{rate:g}" if factor == 1 else f"{rate:g} ({factor * rate:g})"


def _command(row: Row) -> str:
    options = " ".join(f"--{name} {value}" for name, value in row.options.items())
    return f"python examples/cifar10_vlae.py --preset paper {options} --out results/{row.name}"


def _comparable(claim: Claim, folder: Path) -> bool:
    """Whether both runs exist and have scores to pair."""
    runs = [folder / name for name in (claim.better, claim.worse)]
    return all((run / name).exists() for run in runs for name in ("results.json", "scores.npz"))


def _ranking(claim: Claim, folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> str:
    names = (claim.better, claim.worse)
    compared = compare_models({name: folder / name for name in names}, reference=claim.better)
    (worse,) = [model for model in compared.models if model.name == claim.worse]
    found = [(name, runs[name]["train_images_seen"], runs[name]["kl_nats"]) for name in names]
    return _cells(
        claim.text,
        *(f"`{name}` ({seen:,}, {rate:.1f})" for name, seen, rate in found),
        "" if claim.paper is None else f"{claim.paper:+.2f}",
        f"{-worse.difference:+.2f} ± {worse.difference_error:.2f} "
        f"(± {worse.monte_carlo_error:.2f})",
        f"{compared.num_images:,}",
    )
