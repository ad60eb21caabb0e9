"""The tables of the paper: every row can be built and run."""

import json
import shutil

import pytest

from pyro_vlae.experiments import BinaryRecipe, ConfigError
from pyro_vlae.experiments.paper_tables import TABLES

ROWS = [(table, row) for table, rows in TABLES.items() for row in rows]


@pytest.fixture
def example(load_example):
    return load_example("binary_images")


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[row.name for _, row in ROWS])
def test_every_row_builds_the_model_that_its_options_name(table, row):
    recipe = BinaryRecipe.from_options(**row.options, preset="paper", dataset=table)
    model, guide = recipe.build()
    for name, value in row.options.items():
        assert getattr(recipe, name) == value
    assert type(model).__name__ == ("VLAE" if recipe.has_code else "UnconditionalModel")
    assert bool(list(guide.parameters())) == recipe.has_code


def test_row_names_are_unique():
    assert len({row.name for _, row in ROWS}) == len(ROWS)


@pytest.mark.real_data
def test_rows_run_and_resume(example, real_data_root, tmp_path):
    options = ["mnist", "--results", str(tmp_path), "--device", "cpu", "--max-minutes", "0.01"]
    options += ["--num-samples", "2", "--eval-images", "4"]
    rows = ["--rows", "mnist-unconditional", "mnist-normal-prior"]
    assert example.main([*options, *rows]) == 0
    alone = json.loads((tmp_path / "mnist-unconditional" / "results.json").read_text())
    assert alone["kl_nats"] == 0 and alone["num_samples"] == 1
    assert alone["nll_nats"] == pytest.approx(-alone["elbo_nats"])
    coded = json.loads((tmp_path / "mnist-normal-prior" / "results.json").read_text())
    assert coded["prior"] == "normal" and coded["num_samples"] == 2
    with pytest.raises(ConfigError, match="already holds a run"):
        example.main([*options, *rows])
    assert example.main([*options, *rows, "--resume"]) == 0
    shutil.rmtree(tmp_path / "mnist-unconditional" / "checkpoint")
    before = (tmp_path / "mnist-unconditional" / "results.json").stat().st_mtime_ns
    assert example.main([*options, "--rows", "mnist-unconditional"]) == 0
    assert (tmp_path / "mnist-unconditional" / "results.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="no such row: mnist-nonsense"):
        example.main([*options, "--rows", "mnist-nonsense"])
