"""The paper's tables of results: a named row for each model, and a page that compares.

References:
    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, tables 1 to 5.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vlae.analysis import compare_models


@dataclass(frozen=True)
class Row:
    """One model of a table.

    Args:
        name: of the row and of its folder of results.
        title: what it is, in words.
        options: what differs from the preset, as `make_config` takes it.
        paper_nll: the paper's test NLL, in nats for binary images, in bits/dim for color ones.
        paper_rate: the paper's KL(q || p) in nats, where it states one.
    """

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    paper_nll: float | None = None
    paper_rate: float | None = None


NORMAL = {"prior": "normal"}
FACTORIzED = {"likelihood": "bernoulli"}
# Alone it learns faster with larger steps: ours, chosen on dynamic MNIST's validation images.
UNCONDITIONAL = {"model": "unconditional", "learning_rate": 0.03}
TABLES: dict[str, tuple[Row, ...]] = {
    "static-mnist": (
        Row("static-mnist-vlae", "VLAE", {}, 79.03, 13.3),
        Row("static-mnist-af-vae", "AF VAE: factorized decoder", FACTORIzED, 79.30, 25.9),
        Row(
            "static-mnist-iaf-vae",
            "IAF VAE: factorized decoder, normal prior, IAF guide",
            {**NORMAL, **FACTORIzED, "guide": "iaf"},
            79.88,
        ),
        Row(
            "static-mnist-vae",
            "VAE: factorized decoder, normal prior",
            {**NORMAL, **FACTORIzED},
        ),
        Row(
            "static-mnist-iaf-guide",
            "PixelCNN decoder, normal prior, IAF guide",
            {**NORMAL, "guide": "iaf"},
        ),
    ),
    "mnist": (
        Row("mnist-unconditional", "Unconditional PixelCNN", UNCONDITIONAL, 87.55, 0),
        Row("mnist-normal-prior", "PixelCNN decoder, normal prior", NORMAL, 79.48, 10.60),
        Row("mnist-vlae", "VLAE (the paper has 78.94 in its ablation)", {}, 78.53, 11.73),
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
# Scored in bits per dimension.
COLOR_ROWS = (
    Row("cifar10-resnet-4x2", "ResNet VLAE, window 4x2", {"window": "4x2"}, 3.12),
    Row("cifar10-resnet-7x4", "ResNet VLAE, window 7x4", {"window": "7x4"}, 3.04),
    Row(
        "cifar10-densenet-7x4",
        "DenseNet VLAE, window 7x4",
        {"window": "7x4", "encoder": "densenet"},
        2.95,
    ),
)


@dataclass(frozen=True)
class Claim:
    """An order between two rows that the paper's figures have.

    Args:
        text: what it says.
        better: folder of the run that should have the lower NLL.
        worse: folder of the other.
        paper: how much lower, in nats, by the paper's figures, where it has both.
    """

    text: str
    better: str
    worse: str
    paper: float | None = None


# Pairs of runs that saw about as many images: the quick VLAE stands in for the longer one.
CLAIMS = (
    Claim(
        "PixelCNN decoder rather than a factorized one, flow prior",
        "static-mnist-quick",
        "static-mnist-af-vae",
        79.30 - 79.03,
    ),
    Claim(
        "flow prior rather than normal, factorized decoder",
        "static-mnist-af-vae",
        "static-mnist-vae",
    ),
    Claim(
        "flow prior rather than IAF guide, factorized decoder",
        "static-mnist-af-vae",
        "static-mnist-iaf-vae",
        79.88 - 79.30,
    ),
    Claim(
        "flow prior rather than IAF guide, PixelCNN decoder",
        "static-mnist-quick",
        "static-mnist-iaf-guide",
        0.6,
    ),
    Claim(
        "flow prior rather than normal, PixelCNN decoder",
        "mnist-vlae",
        "mnist-normal-prior",
        79.48 - 78.94,
    ),
    Claim("a code rather than none", "mnist-normal-prior", "mnist-unconditional", 87.55 - 79.48),
    Claim("a code rather than none", "omniglot-vlae", "omniglot-unconditional", 95.02 - 90.98),
    Claim(
        "fine-tuned rather than static MNIST's hyperparameters",
        "omniglot-fine-tuned",
        "omniglot-vlae",
        90.98 - 89.83,
    ),
    Claim("a code rather than none", "caltech101-vlae", "caltech101-unconditional", 89.26 - 77.36),
)


def results_page(folder: Path) -> str:
    """The comparison of the paper's figures with ours, in Markdown.

    Args:
        folder: holds one folder per row with its ``results.json``, and perhaps others.
    """
    lines = [
        "# Results",
        "",
        "Written by `python examples/results_page.py` from the `results.json` of each run; not to "
        "be edited. NLL, bound and rate are nats per image on the test set (bits per dimension for "
        "CIFAR-10), lower is better, ± is the standard error over the scored images. `paper` rows "
        "ran the full recipe; `quick` rows ran only as long as stated, and are far from converged.",
    ]
    known = set()
    for table, rows in {**TABLES, "cifar10 (bits/dim)": COLOR_ROWS}.items():
        lines += ["", f"## {table}", "", *_HEAD]
        for row in rows:
            known.add(row.name)
            lines.append(_line(row, _read(folder / row.name)))
    lines += ["", "```", *(_command(row) for row in COLOR_ROWS), "```"]
    others = [
        (path.parent.name, _read(path.parent))
        for path in sorted(folder.glob("*/results.json"))
        if path.parent.name not in known
    ]
    if others:
        lines += ["", "## Other runs", "", *_HEAD]
        lines += [_line(Row(name, "not in the paper"), results) for name, results in others]
    orders = [line for claim in CLAIMS for line in _order(claim, folder)]
    if orders:
        lines += ["", "## Orders, image by image", "", _ORDERS, "", *_ORDER_HEAD, *orders]
    return "\n".join(lines) + "\n"


_ORDERS = (
    "Differences of NLL on the same test images (nats, positive: the first run is better), with "
    "their standard error; part of it is the noise of importance sampling, stated behind it. Of "
    "few images and few samples, far from convergence: an order that the paper has at the end of "
    "training need not show here."
)
_ORDER_HEAD = (
    "| better by the paper | first run (images seen, rate) | second run | paper | ours | images |",
    "|---|---|---|---|---|---|",
)


def _order(claim: Claim, folder: Path) -> list[str]:
    """A line on a pair of runs, if both were made."""
    names = (claim.better, claim.worse)
    runs = [_read(folder / name) for name in names]
    if None in runs or not all((folder / name / "scores.npz").exists() for name in names):
        return []
    compared = compare_models({name: folder / name for name in names}, reference=claim.better)
    (worse,) = [model for model in compared.models if model.name == claim.worse]
    told = [
        f"`{name}` ({run['train_images_seen']:,}, {run['kl_nats']:.1f})"
        for name, run in zip(names, runs, strict=True)
        if run is not None
    ]
    ours = (
        f"{-worse.difference:+.2f} ± {worse.difference_error:.2f} (± {worse.monte_carlo_error:.2f})"
    )
    paper = "" if claim.paper is None else f"{claim.paper:+.2f}"
    cells = [claim.text, *told, paper, ours, f"{compared.num_images:,}"]
    return ["| " + " | ".join(cells) + " |"]


_HEAD = (
    "| row | paper: NLL | paper: rate | NLL | bound | rate | images seen | minutes | scored "
    "| device | preset, learning rate, seed |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def _command(row: Row) -> str:
    options = " ".join(f"--{name} {value}" for name, value in row.options.items())
    return f"python examples/cifar10_vlae.py {options} --out results/{row.name}"


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def _line(row: Row, results: dict[str, Any] | None) -> str:
    paper = [_number(row.paper_nll), _number(row.paper_rate)]
    ours = ["not run yet", *[""] * 7]
    if results is not None:
        # Bits per dimension, where images are scored so, in units of a nat per image.
        color = results.get("dataset") == "cifar10"
        unit = results["nll_nats"] / results["bits_per_dim"] if color else 1.0
        places = 3 if color else 2

        def error(name: str, more: int = 0) -> str:
            # None of one image, or of one sample.
            value = results.get(name)
            return "?" if value is None else f"{value / unit:.{places + more}f}"

        ours = [
            f"{results['nll_nats'] / unit:.{places}f} ± {error('nll_standard_error')}",
            f"{-results['elbo_nats'] / unit:.{places}f}",
            f"{results['kl_nats'] / unit:.{places}f} ({results['kl_bits']:.1f} bits)",
            f"{results['train_images_seen']:,}",
            f"{results['train_seconds'] / 60:.0f}",
            f"{results['num_images']:,} images, {results['num_samples']} samples "
            f"(± {error('nll_monte_carlo_error', 1)})",
            results["device"],
            f"{results['preset']}, {results.get('learning_rate', '?')}, {results['seed']}",
        ]
    return "| " + " | ".join([f"{row.title} (`{row.name}`)", *paper, *ours]) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
