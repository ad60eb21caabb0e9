import json
from pathlib import Path

import numpy as np
import pytest

from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.paper_tables import CLAIMS, COLOR_ROWS, TABLES, results_page
from pyro_vlae.experiments.stored import read_results

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_what_the_committed_results_give():
    assert (ROOT / "results" / "README.md").read_text() == results_page(ROOT / "results")


def test_the_paper_and_ours_stand_side_by_side(tmp_path):
    folder = tmp_path / "static-mnist-vlae"
    folder.mkdir()
    figures = {
        "family": "binary", "dataset": "static-mnist",
        "nll_nats": 80.126, "nll_standard_error": 0.25, "elbo_nats": -82.5, "kl_nats": 12.0,
        "kl_bits": 17.3, "train_images_seen": 1234567, "train_seconds": 120.0, "num_images": 10000,
        "num_samples": 4096, "device": "cpu (2 threads)", "preset": "quick", "seed": 3,
        "nll_monte_carlo_error": 0.004, "learning_rate": 0.008, "train_on": "train",
        "batch_size": 32, "likelihood_learning_rate_factor": 4.0,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(figures))
    (line,) = [li for li in results_page(tmp_path).splitlines() if "static-mnist-vlae" in li]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:6] == ["79.03", "13.30", "80.13 ± 0.25", "82.50", "12.00 (17.3 bits)"]
    assert "1,234,567" in cells and "10,000 images, 4,096 samples (± 0.004)" in cells
    assert cells[-2:] == ["quick, 0.008 (0.032), 32, 3", "train"]

    # Runs that are not rows of the paper's tables come last in the table of their data set.
    own = {"start_from": "/runs/mine", "train_samples": 5, "world_size": 2}
    for name, more in (("tuned", own), ("sketches", {"dataset": "own"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(figures | more))
    lines = results_page(tmp_path).splitlines()
    (tuned,) = [number for number, line in enumerate(lines) if "(`tuned`)" in line]
    assert tuned < lines.index("## mnist") and "static-mnist-iaf-guide" in lines[tuned - 1]
    assert lines[tuned].endswith("32, 3; 5 codes | train, starting from `mine` |")
    assert "| 2 x cpu (2 threads) |" in lines[tuned] and "| cpu (2 threads) |" in line
    assert "(`sketches`)" in lines[lines.index("## Other data sets") + 4]
    assert sum("not run yet" in li for li in results_page(tmp_path).splitlines()) == (
        sum(map(len, TABLES.values())) + len(COLOR_ROWS) - 1
    )


def test_color_rows_are_in_bits_per_dimension(tmp_path):
    folder = tmp_path / "cifar10-resnet-7x4"
    folder.mkdir()
    nats = 3072 * 0.6931471805599453  # of one bit per dimension
    figures = {
        "family": "color", "dataset": "cifar10",
        "nll_nats": 3.5 * nats, "nll_standard_error": 0.02 * nats,
        "elbo_nats": -3.6 * nats, "kl_nats": 0.05 * nats, "kl_bits": 153.6, "bits_per_dim": 3.5,
        "train_images_seen": 1000, "train_seconds": 60.0, "num_images": 100, "num_samples": 16,
        "device": "cpu", "preset": "quick", "seed": 0, "nll_monte_carlo_error": 0.001 * nats,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(figures))
    page = results_page(tmp_path)
    assert "bits/dim" in page
    (line,) = [li for li in page.splitlines() if "`cifar10-resnet-7x4`" in li]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:6] == ["3.04", "", "3.500 ± 0.020", "3.600", "0.050 (153.6 bits)"]
    assert "100 images, 16 samples (± 0.0010)" in cells
    assert "--window 7x4 --encoder densenet --out results/cifar10-densenet-7x4\n" in page
    assert "| 2.95 |" in page and "| 3.12 |" in page


def test_a_run_of_an_unregistered_family_is_left_out(tmp_path, capsys):
    run = json.loads((ROOT / "results" / "mnist-vlae" / "results.json").read_text())
    run.pop("checksum", None)
    for name, family in (("mnist-vlae", "binary"), ("mnist-normal-prior", "plaid")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({**run, "family": family}))
    page = results_page(tmp_path)
    assert "mnist-normal-prior is left out: its family 'plaid'" in capsys.readouterr().out
    (line,) = [line for line in page.splitlines() if "(`mnist-normal-prior`)" in line]
    assert "not run yet" in line


def test_rankings_are_paired_image_by_image(tmp_path):
    claim = CLAIMS[0]
    rng = np.random.default_rng(0)
    images = rng.normal(-80, 25, 50)
    for name, index, shift in ((claim.better, np.arange(50), 0.0), (claim.worse, np.arange(20), 2)):
        (tmp_path / name).mkdir()
        log_prob = images[index] - shift + 0.1 * rng.normal(size=len(index))
        noise = np.full(len(index), 0.05)
        np.savez(
            tmp_path / name / "scores.npz",
            test_index=index[::-1], log_prob=log_prob[::-1], monte_carlo_error=noise,
        )  # fmt: skip
        figures = {
            "family": "binary", "dataset": "static-mnist",
            "nll_nats": 80.0, "nll_standard_error": 3.0, "elbo_nats": -82.0, "kl_nats": 12.0,
            "kl_bits": 17.3, "train_images_seen": 1000, "train_seconds": 120.0, "num_images": 50,
            "num_samples": 8, "device": "cpu", "preset": "quick", "seed": 0,
        }  # fmt: skip
        (tmp_path / name / "results.json").write_text(json.dumps(figures))
    (line,) = [li for li in results_page(tmp_path).splitlines() if li.startswith(f"| {claim.text}")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[-1] == "20" and cells[3] == "+0.27"
    difference, error = float(cells[4].split()[0]), float(cells[4].split()[2])
    assert abs(difference - 2) < 4 * error and error < 0.1


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.better)
def test_claims_compare_committed_runs_of_similar_numbers_of_images(claim):
    names = claim.better, claim.worse
    runs = [read_results(ROOT / "results" / name / "results.json") for name in names]
    images = [run["train_images_seen"] for run in runs]
    assert max(images) < 1.1 * min(images)
    assert runs[0]["dataset"] == runs[1]["dataset"]


def test_what_cannot_be_estimated_is_left_open(tmp_path):
    for claim in CLAIMS:
        for name in (claim.better, claim.worse):
            (tmp_path / name).mkdir(exist_ok=True)
            figures = {
                "family": "binary",
                "dataset": "static-mnist",
                "nll_nats": 80.0, "nll_standard_error": None, "elbo_nats": -82.0, "kl_nats": 12.0,
                "kl_bits": 17.3, "train_images_seen": 1000, "train_seconds": 120.0, "num_images": 1,
                "num_samples": 1, "device": "cpu", "preset": "quick", "seed": 0,
                "nll_monte_carlo_error": None,
            }  # fmt: skip
            (tmp_path / name / "results.json").write_text(json.dumps(figures))
    page = results_page(tmp_path)
    assert "80.00 ± ?" in page and "1 image, 1 sample (± ?)" in page
    assert "Rankings" not in page  # there are no scores to pair


def test_the_page_of_another_folder(load_example, tmp_path, capsys):
    page = load_example("results_page")
    assert page.main(["--results", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == results_page(tmp_path)
    assert str(tmp_path / "README.md") in capsys.readouterr().out
    with pytest.raises(ConfigError, match="there is no folder"):
        page.main(["--results", str(tmp_path / "nowhere")])
