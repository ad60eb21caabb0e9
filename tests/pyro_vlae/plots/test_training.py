"""Training curves: what is plotted, smoothed and named."""

import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from pyro_vlae.plots import plot_rates, plot_training, save_figure


def record(images_seen, elbo=-90.0, kl=12.0, **more):
    return {
        "step": 1,
        "epoch": 0.1,
        "images_seen": images_seen,
        "elbo": elbo,
        "kl_nats": kl,
        "distortion_nats": -elbo - kl,
        "learning_rate": 0.002,
        **more,
    }


def test_training_has_three_panels_with_bits_beside_nats():
    records = [record(64 * n, -100 + n) for n in range(1, 11)]
    records[4].update(validation_elbo=-97, validation_kl_nats=11, validation_distortion_nats=86)
    records[9].update(validation_elbo=-93, validation_kl_nats=math.nan)
    figure = plot_training(records, "a run")
    elbo, rate, distortion = figure.axes[:3]
    for axes, values in ((elbo, [-97, -93]), (rate, [11]), (distortion, [86])):
        raw, smooth, validation = axes.get_lines()
        assert len(raw.get_xdata()) == len(smooth.get_xdata()) == 10
        assert list(validation.get_ydata()) == values
    assert list(elbo.get_lines()[2].get_xdata()) == [320, 640]
    bits = rate.child_axes[0]
    FigureCanvasAgg(figure).draw()
    assert bits.get_ylim()[1] == pytest.approx(rate.get_ylim()[1] / math.log(2))
    assert "bits" in bits.get_ylabel() and rate.get_ylim()[0] == 0
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["training", "validation (averaged weights)"]


def test_training_on_another_bound_is_not_called_an_elbo():
    records = [{"images_seen": n, "elbo": -90.0 - n % 3} for n in range(1, 60)]
    (panel,) = plot_training(records).axes
    assert panel.get_title() == "Objective (higher is better)"
    records[-1] |= {"validation_elbo": -91.0, "validation_kl_nats": 0.0}  # a model without a code
    assert plot_training(records).axes[0].get_title() == "log p(x) (higher is better)"
    records[-1] |= {"validation_elbo": -91.0, "validation_kl_nats": 3.0}
    figure = plot_training(records)
    assert len(figure.axes) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "training (another bound)",
        "validation (averaged weights)",
    ]


def test_an_early_outlier_does_not_flatten_the_curve():
    records = [record(1, elbo=-50_000, kl=400)]
    records += [record(64 * n, elbo=-90 - 10 / n) for n in range(1, 200)]
    low, high = plot_training(records).axes[0].get_ylim()
    assert low < -90.1 and high > -90.05 and high - low < 10


@pytest.mark.parametrize("records", [[record(64)], [{"images_seen": 5}], [record(1), record(1)]])
def test_few_or_bare_records_are_drawn(records, tmp_path):
    save_figure(plot_training(records), tmp_path / "training.png")
    assert imread(tmp_path / "training.png").min() < 0.5


def test_a_short_last_line_makes_no_spike():
    """The last line of a run averages the steps since the line before, perhaps a single one."""
    records = [record(6400 * n, elbo=-100.0) for n in range(1, 21)]
    records.append(record(records[-1]["images_seen"] + 64, elbo=-140.0))
    raw, smooth = plot_training(records).axes[0].get_lines()
    for line in (raw, smooth):
        assert line.get_xdata()[-1] == 6400 * 20 + 64
        assert line.get_ydata()[-1] == pytest.approx(-100, abs=0.5)
    weighted = (100 * 6400 + 140 * 64) / (6400 + 64)
    assert raw.get_ydata()[-1] == pytest.approx(-weighted)


@pytest.mark.parametrize("count", [5, 20, 99, 500])
def test_short_curves_are_smoothed_too(count):
    noise = np.random.default_rng(0).normal(size=count)
    records = [record(64 * n, elbo=-90 + e) for n, e in enumerate(noise, 1)]
    raw, smooth = (line.get_ydata() for line in plot_training(records).axes[0].get_lines())
    np.testing.assert_allclose(raw, -90 + noise)
    assert np.diff(smooth).std() < 0.6 * np.diff(raw).std()
    assert abs(smooth.mean() - raw.mean()) < 0.3


def test_curves_in_bits_per_dimension():
    records = [record(64 * n, elbo=-9000.0 - n, kl=300.0) for n in range(1, 9)]
    elbo, rate, _ = plot_training(records, bits_per_dim=3072).axes[:3]
    bits = 3072 * math.log(2)
    np.testing.assert_allclose(elbo.get_lines()[0].get_ydata()[0], -9001 / bits)
    assert elbo.get_ylabel() == rate.get_ylabel() == "bits per dimension"
    FigureCanvasAgg(rate.figure).draw()
    high = rate.get_ylim()[1]
    assert rate.child_axes[0].get_ylim()[1] == pytest.approx(high * 3072)


def test_rates_of_runs_are_curves_with_their_names():
    runs = {
        name: [record(64 * n, kl=kl) for n in range(1, 30)] for name, kl in (("a", 2.0), ("b", 5))
    }
    axes = plot_rates(runs, title="rates").axes[0]
    assert [line.get_label() for line in axes.get_lines()] == ["a", "b"]
    for line, kl in zip(axes.get_lines(), (2, 5), strict=True):
        np.testing.assert_allclose(line.get_ydata(), kl)
    assert axes.get_ylim()[0] == 0
    with pytest.raises(ValueError, match="run 'x' has no rates"):
        plot_rates({"x": [{"images_seen": 5, "elbo": -1.0}]})


def test_noise_at_the_end_does_not_bend_the_curve():
    """The last smoothed value must not be the last raw one."""
    noise = np.random.default_rng(1).normal(size=200)
    records = [record(64 * n, elbo=-90 + e) for n, e in enumerate(noise, 1)]
    records[-1]["elbo"] = -95.0
    _, smooth = (line.get_ydata() for line in plot_training(records).axes[0].get_lines())
    assert abs(smooth[-1] + 90) < 2.5


def test_no_text_is_clipped():
    records = [record(10**6 * n, -90 - n) for n in range(1, 9)]
    figure = plot_training(records, "static-mnist, quick")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_wrong_records_are_named():
    with pytest.raises(ValueError, match="got 0 records"):
        plot_training([])
    with pytest.raises(ValueError, match="each with 'images_seen'"):
        plot_training([{"step": 1}])


def test_smoothing_leaves_the_ends_of_a_slope_where_they_are():
    records = [{"images_seen": 100 * k, "elbo": -300.0 + 10 * k} for k in range(1, 31)]
    raw, smooth = (line.get_ydata() for line in plot_training(records).axes[0].get_lines())
    assert smooth == pytest.approx(raw)
