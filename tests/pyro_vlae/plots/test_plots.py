"""Each plot holds what it was given, read back from its artists, and says in which units."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from pyro_vlae import plots
from pyro_vlae.analysis import CodeDimensionRates, PixelInfluence, compare_models

RUNS = {
    "vlae": {"kl_nats": 12.0, "elbo_nats": -82.0},
    "vae": {"kl_nats": 26.0, "elbo_nats": -84.0},
    "unconditional": {"kl_nats": 0.0, "elbo_nats": -87.5},
}
WINDOW = frozenset({(0, -1), (-1, 0), (-1, -1)})


def rates(against="prior", count=5):
    values = torch.linspace(0, 2, count).double()[torch.randperm(count)]
    return CodeDimensionRates(values, against, 1000)


def influence():
    change = torch.tensor([[0, 0, 0, 0, 0], [0, 0.04, 1.5, 0, 0], [0, 2.0, 0, 0, 0]]).double()
    return PixelInfluence(change, WINDOW)


def codes(count=60):
    """Codes of three labels, spread along two directions of five."""
    labels = torch.arange(count) % 3
    z = 0.01 * torch.randn(count, 5).double()
    z[:, 1] += 3.0 * labels
    z[:, 4] += torch.randn(count)
    return z, labels


def comparison():
    generator = np.random.default_rng(0)
    images = generator.normal(-80, 10, size=50)
    shift = {"a": 0.0, "b": -1.0, "c": -3.0}
    return compare_models({n: images + s + generator.normal(size=50) for n, s in shift.items()})


PLOTS = {
    "rate_distortion": lambda *args: plots.plot_rate_distortion(RUNS, *args),
    "comparison": lambda *args: plots.plot_comparison(comparison(), *args),
    "pareto_k": lambda *args: plots.plot_pareto_k(torch.linspace(-0.2, 1.4, 50), *args),
    "code_dimensions": lambda *args: plots.plot_code_dimensions(rates(), *args),
    "code_map": lambda *args: plots.plot_code_map(*codes(), *args),
    "pixel_influence": lambda *args: plots.plot_pixel_influence(influence(), *args),
}


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)
def test_figures_are_whole_and_may_be_panels_of_another(draw):
    figure = draw(None, "a model, a data set")
    assert figure.axes[0].get_title().startswith("a model, a data set")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    ax = figure.axes[0]
    assert ax.get_xlabel() and (ax.get_ylabel() or ax.get_yticklabels())
    if ax.get_legend():
        frame = ax.get_legend().get_window_extent(canvas.get_renderer())
        assert frame.x0 >= ax.get_window_extent().x1  # outside the data

    whole = Figure()
    left, right = whole.subfigures(1, 2)
    for part in (left, right):
        panel = part.subplots()
        assert draw(panel) is whole
        assert len(panel.get_children()) == len(ax.get_children())


def test_rate_and_distortion_add_up_to_the_labeled_lines():
    ax = plots.plot_rate_distortion(RUNS).axes[0]
    points = {
        line.get_label(): line.get_xydata()[0] for line in ax.lines if line.get_marker() != "None"
    }
    assert set(points) == set(RUNS)
    np.testing.assert_allclose(points["vlae"], [12, 70])
    np.testing.assert_allclose(points["unconditional"], [0, 87.5])
    markers = {line.get_marker() for line in ax.lines} - {"None"}
    assert len(markers) == 3  # told apart without color
    lines = [line.get_xydata() for line in ax.lines if line.get_marker() == "None"]
    labels = {text.get_text(): text.get_position() for text in ax.texts}
    assert len(lines) == len(labels) >= 4
    for (name, position), line in zip(labels.items(), lines, strict=True):
        level = float(name.removeprefix("−ELBO "))
        np.testing.assert_allclose(line.sum(1), level)
        assert sum(position) == pytest.approx(level)
    assert "nats" in ax.get_xlabel() and "nats" in ax.get_ylabel()
    single = plots.plot_rate_distortion({"one": RUNS["vlae"]}).axes[0]
    assert len(single.texts) >= 2


def test_comparison_has_intervals_around_the_differences():
    table = comparison()
    ax = plots.plot_comparison(table).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [model.name for model in table.models] == ["a", "b", "c"]
    heights = ax.get_yticks()
    assert list(heights) == sorted(heights, reverse=True)  # best on top
    thin = ax.collections[0].get_segments()
    for (start, stop), model, height in zip(thin, table.models, heights, strict=True):
        assert start[1] == stop[1] == height
        assert (start[0] + stop[0]) / 2 == pytest.approx(model.difference)
        assert stop[0] - start[0] == pytest.approx(2 * 1.96 * model.difference_error)
    assert "that of a, nats per image" in ax.get_xlabel() and "50 images" in ax.get_xlabel()


def test_pareto_k_counts_every_image_once():
    k = torch.cat([torch.linspace(-0.3, 1.5, 91), torch.tensor([math.nan, math.nan])])
    ax = plots.plot_pareto_k(k).axes[0]
    assert sum(bar.get_height() for bar in ax.patches) == 91
    assert "91 images, 2 without" in ax.get_xlabel()
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 0.7, 1.0]
    assert len({line.get_linestyle() for line in ax.lines}) == 3
    above = [text.get_text() for text in ax.texts]
    known = k[:91]
    assert above == [f"{(known > t).double().mean():.0%}\n> {t:g}" for t in (0.5, 0.7, 1.0)]
    plots.plot_pareto_k(torch.tensor([0.3]))
    ax = plots.plot_pareto_k(torch.tensor([math.inf, 0.3, math.inf, math.nan])).axes[0]
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert ax.texts[-1].get_text() == "67%\n> 1"
    with pytest.raises(ValueError, match="none of 2 images has a Pareto k"):
        plots.plot_pareto_k(k[-2:])


@pytest.mark.parametrize("count", [5, 64, 1024])
def test_code_dimensions_are_sorted_and_named(count):
    given = rates("aggregate posterior", count)
    ax = plots.plot_code_dimensions(given).axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    shown = given.rates[given.rates > 0.01]
    assert heights == shown.sort(descending=True).values.tolist() and len(shown) < count
    if count <= 64:
        names = [int(label.get_text()) for label in ax.get_xticklabels()]
        np.testing.assert_allclose(given.rates[names], heights)
    assert "aggregate posterior" in ax.get_ylabel() and "nats" in ax.get_ylabel()
    above = (given.rates > 0.1).sum().item()
    assert f"{above} above 0.1" in ax.get_title() and "1,000 images" in ax.get_title()
    assert f"{count} dimensions: {len(shown)} above 0.01" in ax.get_title()


def test_a_collapsed_code_has_no_bars():
    ax = plots.plot_code_dimensions(CodeDimensionRates(torch.zeros(3).double(), "prior", 5)).axes[0]
    assert not ax.patches and "3 dimensions: 0 above 0.01" in ax.get_title()


def test_code_map_is_a_principal_component_analysis():
    z, labels = codes()
    ax = plots.plot_code_map(z, labels).axes[0]
    expected = PCA(2, random_state=0).fit_transform(z.numpy())
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["0", "1", "2"]
    for name, points in zip(legend, ax.collections, strict=True):
        np.testing.assert_allclose(points.get_offsets(), expected[labels == int(name)])
    outlines = {points.get_paths()[0].vertices.tobytes() for points in ax.collections}
    assert len(outlines) == 3  # told apart without color
    share = z.var(0)[1] / z.var(0).sum()
    assert f"({share:.0%} of their variance)" in ax.get_xlabel()
    for wrong in ((z, labels[:5]), (z[:1], labels[:1]), (z[:, 0], labels)):
        with pytest.raises(ValueError, match="expected codes"):
            plots.plot_code_map(*wrong)


def test_pixel_influence_is_in_place_and_the_window_outlined():
    given = influence()
    ax = plots.plot_pixel_influence(given).axes[0]
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), given.change)
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (-2.5, 2.5, 0.5, -2.5)
    assert {text.get_text(): text.get_position() for text in ax.texts} == {
        "0.04": (-1, -1), "1.50": (0, -1), "2.00": (-1, 0),
    }  # fmt: skip
    # Each edge between a seen and an unseen pixel, once: three cells have 12, two pairs share one.
    edges = {tuple(map(tuple, line.get_xydata())) for line in ax.lines}
    assert len(edges) == len(ax.lines) == 8
    assert ((-0.5, -0.5), (-0.5, 0.5)) in edges  # between (0, -1) and the pixel itself
    (pixel,) = ax.patches
    assert pixel.get_xy() == (-0.5, -0.5)
    assert "log-odds" in ax.figure.axes[1].get_ylabel()
    unknown = plots.plot_pixel_influence(PixelInfluence(given.change, None)).axes[0]
    assert not unknown.lines


def test_runs_that_cannot_be_plotted_are_named():
    with pytest.raises(ValueError, match="run 'x' has no kl_nats and elbo_nats"):
        plots.plot_rate_distortion({"x": {"kl_nats": 1.0}})
    with pytest.raises(ValueError, match="there are no runs to plot"):
        plots.plot_rate_distortion({})


def window_result(window, rate=10.0, **more):
    return {"window": window, "nll": 90.0 - rate, "nll_error": 1.0, "rate": rate,
            "distortion": 81.0, "probe": 0.9, "probe_error": 0.01, **more}  # fmt: skip


def test_a_window_study_shows_paired_errors_if_given():
    x = torch.zeros(2, 1, 4, 6)
    results = [window_result("none", 9.0), window_result("4x2", 3.0)]
    figure = plots.plot_window_study(x, [x, x], results, "a study")
    images, plane, probe, nll = figure.axes
    assert len(images.get_images()) == 6
    assert [text.get_text() for text in images.texts] == ["original", "none", "4x2"]
    assert len(plane.get_legend().get_texts()) == 2

    def bars(axes):
        (container,) = axes.containers
        return [np.ptp(segment[:, 1]) / 2 for segment in container.lines[2][0].get_segments()]

    np.testing.assert_allclose(list(probe.containers[0].lines[0].get_ydata()), [90, 90])
    np.testing.assert_allclose(bars(probe), 1)
    np.testing.assert_allclose(list(nll.containers[0].lines[0].get_ydata()), [81, 87])
    np.testing.assert_allclose(bars(nll), 1)
    for result, error in zip(results, (0.2, 0.0), strict=True):
        result["difference_error"] = error
    plane, _, nll = plots.plot_window_study(x, [x, x], results, unit="nats per frame").axes[1:]
    labels = [plane.get_xlabel(), plane.get_ylabel(), nll.get_ylabel()]
    assert all("nats per frame" in label for label in labels)
    np.testing.assert_allclose(bars(nll), [0.2, 0])
    assert "difference from 4x2" in nll.get_ylabel()
    unknown = plots.plot_window_study(x, [x], [window_result("all") | {"nll_error": None}]).axes[3]
    np.testing.assert_allclose(bars(unknown), 0)


def test_a_window_study_needs_images_for_every_window():
    x = torch.zeros(2, 1, 4, 4)
    for wrong in ([x, x], [x[:1]], []):
        with pytest.raises(ValueError, match="each of the 1 results"):
            plots.plot_window_study(x, wrong, [window_result("4x2")])


def test_no_window_system_is_touched():
    code = "import sys, pyro_vlae.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
