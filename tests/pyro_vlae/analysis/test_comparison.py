"""Paired comparisons: the arithmetic by hand, the pairing of runs, and what cannot be compared."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vlae.analysis import compare_models
from pyro_vlae.infer import marginal_log_likelihood

ROOT = Path(__file__).parents[3]


def write_run(folder, index, log_prob, noise=0.1, **results):
    folder.mkdir()
    index, log_prob = np.asarray(index), np.asarray(log_prob, dtype=float)
    noise = np.full(len(index), noise)
    np.savez(folder / "scores.npz", test_index=index, log_prob=log_prob, monte_carlo_error=noise)
    if results:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1/sqrt(3)."""
    comparison = compare_models({"worse": [-10.0, -20, -30], "better": [-9.0, -18, -27]})
    assert comparison.reference == "better" and comparison.num_images == 3
    better, worse = comparison.models
    assert (better.name, worse.name) == ("better", "worse")
    assert (better.mean_log_prob, worse.mean_log_prob) == (-18, -20)
    assert worse.standard_error == pytest.approx(10 / math.sqrt(3))
    assert worse.difference == pytest.approx(-2)
    assert worse.difference_error == pytest.approx(1 / math.sqrt(3))
    assert (better.difference, better.difference_error, better.monte_carlo_error) == (0, 0, 0)
    assert math.isnan(worse.monte_carlo_error) and worse.num_samples is None
    other = compare_models({"w": [-10.0, -20, -30], "b": torch.tensor([-9.0, -18, -27])}, "w")
    assert [(m.name, m.difference) for m in other.models] == [("b", 2), ("w", 0)]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 30), models=st.integers(2, 5), seed=st.integers(0, 1000))
def test_best_first_and_image_effects_cancel(count, models, seed):
    generator = np.random.default_rng(seed)
    images = 100 * generator.normal(size=count)
    scores = {str(n): images + generator.normal(size=count) for n in range(models)}
    comparison = compare_models(scores)
    means = [model.mean_log_prob for model in comparison.models]
    assert means == sorted(means, reverse=True) and comparison.models[0].difference == 0
    assert {model.name for model in comparison.models} == set(scores)
    for model in comparison.models:
        expected = scores[model.name] - scores[comparison.reference]
        assert model.difference == pytest.approx(expected.mean(), abs=1e-9)
        expected_error = expected.std(ddof=1) / math.sqrt(count)
        assert model.difference_error == pytest.approx(expected_error, abs=1e-9)
        assert model.difference_error < 6 / math.sqrt(count)


def test_errors_cover_the_truth_on_a_linear_gaussian_model(linear_gaussian):
    """Differences of two models are known; estimates lie within the errors that they state."""
    good = linear_gaussian(noise=0.7)
    bad = linear_gaussian(noise=1.4)
    x = good.sample(60)
    score = {
        name: marginal_log_likelihood(m.model, partial(m.guide, scale=1.3), x, 100, seed=seed)
        for seed, (name, m) in enumerate({"good": good, "bad": bad}.items())
    }
    row = compare_models(score).models[1]
    truth = (bad.log_prob(x) - good.log_prob(x)).mean().item()
    assert row.name == "bad" and row.num_samples == 100
    assert 0 < row.monte_carlo_error < row.difference_error
    assert abs(row.difference - truth) < 4 * row.monte_carlo_error
    one, two = (score[name].mean_monte_carlo_error for name in ("good", "bad"))
    assert row.monte_carlo_error == pytest.approx(math.hypot(one, two))


def test_runs_are_paired_on_their_common_images(tmp_path):
    about = {"num_samples": 64, "dataset": "mnist"}
    first = write_run(tmp_path / "a", [7, 3, 5, 1], [-70, -30, -50, -10], 0.3, **about)
    second = write_run(tmp_path / "b", [5, 9, 7, 3], [-52, -90, -71, -33], 0.4)
    comparison = compare_models({"a": first, "b": second / "scores.npz"})
    assert comparison.num_images == 3 and comparison.reference == "a"
    a, b = comparison.models
    assert a.mean_log_prob == pytest.approx(-50) and a.num_samples == 64
    assert b.difference == pytest.approx(-2)  # -3, -2, -1
    assert b.difference_error == pytest.approx(1 / math.sqrt(3))
    assert b.monte_carlo_error == pytest.approx(0.5 * math.sqrt(3) / 3)
    assert b.num_samples is None


def test_committed_runs_compare_far_better_in_pairs():
    runs = {name: ROOT / "results" / f"static-mnist-{name}" for name in ("vlae", "quick")}
    comparison = compare_models(runs)
    assert comparison.reference == "vlae" and comparison.num_images == 500
    quick = comparison.models[1]
    assert quick.difference_error < 0.2 * quick.standard_error
    assert quick.difference < -3 * quick.difference_error


def test_table():
    comparison = compare_models({"long name": [-2.0, -4], "b": [-1.0, -1]})
    title, head, *rows = str(comparison).splitlines()
    assert "nats per image, 2 images; differences from b" in title
    assert [row.split()[0] for row in rows] == ["b", "long"]
    assert "-2.00 ± 1.00" in rows[1] and "-3.00 ± 1.00" in rows[1]
    assert rows[0].index("-1.00") == head.index("log p(x)") == rows[1].index("-3.00")
    assert "nan" not in str(comparison)


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ({"a": [1.0, 2]}, r"at least two models; got \['a'\]"),
        ({"a": [1.0, 2], "b": [1.0]}, r"different numbers of images: \{'a': 2, 'b': 1\}"),
        ({"a": [1.0], "b": [2.0]}, r"1 images in common.*at least two"),
        ({"a": [[1.0]], "b": [2.0]}, r"'a' have shape \(1, 1\), expected \(N,\)"),
        ({"a": [1.0, 2], "b": [1.0, math.nan]}, r"1 of 2 .* of 'b' are not finite.*image 1"),
    ],
)
def test_what_cannot_be_compared_is_named(scores, match):
    with pytest.raises(ValueError, match=match):
        compare_models({name: np.array(value) for name, value in scores.items()})


def test_runs_without_names_or_scores_are_refused():
    with pytest.raises(ValueError, match=r"expected scores by model name, .* got a list"):
        compare_models(["runs/a", "runs/b"])
    with pytest.raises(FileNotFoundError, match=r"static-mnist does not exist: name the folder"):
        compare_models({"a": "static-mnist", "b": "mnist"})


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    a = write_run(tmp_path / "a", [0, 1, 2], [-1, -2, -3], dataset="mnist", num_samples=8)
    about = {"dataset": "omniglot", "num_samples": 8}
    b = write_run(tmp_path / "b", [0, 1, 2], [-1, -2, -3], **about)
    c = write_run(tmp_path / "c", [2, 8], [-1, -2])
    d = write_run(tmp_path / "d", [2, 2], [-1, -2])
    with pytest.raises(ValueError, match=r"different data sets: \{'a': 'mnist', 'b': 'omniglot'"):
        compare_models({"a": a, "b": b})
    with pytest.raises(ValueError, match=r"1 images in common \(of \{'a': 3, 'c': 2\}"):
        compare_models({"a": a, "c": c})
    with pytest.raises(ValueError, match="each image once"):
        compare_models({"a": a, "d": d})
    with pytest.raises(ValueError, match=r"\['list'\] have no image indices"):
        compare_models({"a": a, "list": np.array([-1.0, -2, -3])})
    with pytest.raises(ValueError, match=r"reference is 'z', expected one of \['a', 'c'\]"):
        compare_models({"a": a, "c": c}, reference="z")
    np.savez(tmp_path / "other.npz", log_prob=np.zeros(3))
    with pytest.raises(ValueError, match=r"cannot read .*other\.npz with test_index.*test_index"):
        compare_models({"a": a, "other": tmp_path / "other.npz"})
    with pytest.raises(FileNotFoundError, match=r"scores\.npz"):
        compare_models({"a": a, "none": tmp_path})


@pytest.mark.parametrize("name", ["test_index", "log_prob", "monte_carlo_error"])
def test_arrays_of_different_lengths_are_refused(tmp_path, name):
    a = write_run(tmp_path / "a", [0, 1, 2], [-1, -2, -3])
    b = write_run(tmp_path / "b", [0, 1, 2], [-1, -2, -3])
    with np.load(b / "scores.npz") as file:
        arrays = dict(file)
    arrays[name] = np.append(arrays[name], 7)
    np.savez(b / "scores.npz", **arrays)
    with pytest.raises(ValueError, match=r"b.scores\.npz: .* have shapes .*\(4,\)"):
        compare_models({"a": a, "b": b})


@pytest.mark.parametrize("damage", [b"", b"PK", b"nothing", None])
def test_damaged_files_are_named(tmp_path, damage):
    a = write_run(tmp_path / "a", [0, 1, 2], [-1, -2, -3])
    b = write_run(tmp_path / "b", [0, 1, 2], [-1, -2, -3], dataset="mnist")
    content = (b / "scores.npz").read_bytes()
    (b / "scores.npz").write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(ValueError, match=r"cannot read .*b.scores\.npz"):
        compare_models({"a": a, "b": b})
    (b / "scores.npz").write_bytes(content)
    for text in ("", "[1]", "[" * 100_000, '{"dataset": "mni'):
        (b / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"b.results\.json is truncated or altered"):
            compare_models({"a": a, "b": b})


def test_results_of_something_else_are_refused(tmp_path):
    runs = {name: write_run(tmp_path / name, [0, 1], [-1, -2]) for name in ("a", "b")}
    (tmp_path / "b" / "results.json").write_text('{"x": {"num_samples": 8, "dataset": "mnist"}}')
    with pytest.raises(ValueError, match=r"b.results\.json does not hold the results of a run"):
        compare_models(runs)
