"""The figures hold the images and curves that they were given, where a reader expects them."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from pyro_vlae.plots.figures import (
    plot_groups,
    plot_reconstructions,
    plot_samples,
    plot_training,
    read_metrics,
    save_figure,
)


def placed(figure):
    """Images of a figure with their (left, top) corners, in reading order."""
    found = []
    for image in figure.axes[0].get_images():
        left, _, _, top = image.get_extent()
        found.append(((left, top), np.asarray(image.get_array())))
    return sorted(found, key=lambda item: (round(item[0][1], 3), item[0][0]))


def shades(count, channels=1):
    """Images of one shade each, all different."""
    return torch.linspace(0, 1, count)[:, None, None, None].expand(count, channels, 5, 5)


@settings(deadline=None, max_examples=15)
@given(count=st.integers(1, 70), channels=st.sampled_from([1, 3]))
def test_samples_are_in_reading_order_and_ink_is_black(count, channels):
    images = shades(count, channels)
    found = placed(plot_samples(images))
    assert len(found) == count
    for ((_, _), drawn), image in zip(found, images, strict=True):
        shade = image[0, 0, 0].item()
        np.testing.assert_allclose(drawn, 1 - shade if channels == 1 else shade, atol=1e-6)
    columns = {round(corner[0], 3) for corner, _ in found}
    assert len(columns) == min(count, 8)


def test_reconstructions_alternate_and_pairs_stand_apart():
    originals = shades(32)
    found = placed(plot_reconstructions(originals, 1 - originals))
    assert len(found) == 64
    for n in range(32):
        (left, original), (right, decompression) = found[2 * n : 2 * n + 2]
        shade = originals[n, 0, 0, 0].item()
        np.testing.assert_allclose(original, 1 - shade, atol=1e-6)
        np.testing.assert_allclose(decompression, shade, atol=1e-6)
        assert left[1] == right[1]
        if n % 4 < 3:
            assert found[2 * n + 2][0][0] - right[0] > 1.2 * (right[0] - left[0])
    figure = plot_reconstructions(originals, originals)
    heads = [text.get_text() for text in figure.axes[0].texts]
    assert heads == ["original", "decompressed"] * 4


def test_groups_stand_side_by_side_under_their_heads():
    versions = {name: torch.full((6, 3, 8, 8), k / 4) for k, name in enumerate("abcde")}
    figure = plot_groups(versions, "windows", groups_per_row=2)
    assert [text.get_text() for text in figure.axes[0].texts] == list("abcde") * 2
    found = placed(figure)
    assert len(found) == 30
    shades = [drawn.flat[0] for _, drawn in found]
    np.testing.assert_allclose(shades, [0, 0.25, 0.5, 0.75, 1] * 6, atol=1e-6)


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
    assert [t.get_text() for t in elbo.get_legend().get_texts()] == ["training", "validation"]


def test_an_early_outlier_does_not_flatten_the_curve():
    records = [record(1, elbo=-50_000, kl=400)]
    records += [record(64 * n, elbo=-90 - 10 / n) for n in range(1, 200)]
    low, high = plot_training(records).axes[0].get_ylim()
    assert low < -90.1 and high > -90.05 and high - low < 10


@pytest.mark.parametrize("records", [[record(64)], [{"images_seen": 5}], [record(1), record(1)]])
def test_few_or_bare_records_are_drawn(records, tmp_path):
    save_figure(plot_training(records), tmp_path / "training.png")
    assert imread(tmp_path / "training.png").min() < 0.5


def test_no_text_is_clipped():
    pairs = plot_reconstructions(shades(32), shades(32), title="Static MNIST")
    runs = plot_training([record(10**6 * n, -90 - n) for n in range(1, 9)], "static-mnist, quick")
    for figure in (plot_samples(shades(64), "64 samples"), pairs, runs):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_saving_replaces_whole_files_only(tmp_path):
    path = tmp_path / "samples.png"
    save_figure(plot_samples(shades(64)), path)
    assert imread(path).shape[:2] > (500, 500)
    before = path.read_bytes()
    broken = plot_samples(shades(1))
    broken.savefig = lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        save_figure(broken, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["samples.png"]
    with pytest.raises(OSError):
        save_figure(plot_samples(shades(1)), tmp_path / "missing" / "samples.png")


def test_no_window_system_is_touched():
    code = "import sys, pyro_vlae.plots.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_metrics_are_read_and_an_unfinished_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(n)) for n in (1, 2)]
    path.write_text("\n".join(lines) + "\n")
    assert read_metrics(path) == [record(1), record(2)]
    path.write_text("\n".join(lines) + '\n{"step": 3, "ima')
    assert read_metrics(path) == [record(1), record(2)]
    path.write_text('{"step": 3, "ima\n' + lines[0] + "\n")
    with pytest.raises(ValueError, match=r"line 1: expected a JSON object"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(5, 28, 28), r"shape \(5, 28, 28\), expected \(N, 1, H, W\)"),
        (torch.zeros(5, 2, 28, 28), r"shape \(5, 2, 28, 28\)"),
        (torch.zeros(0, 1, 28, 28), r"at least one image"),
        (torch.full((1, 1, 2, 2), 255.0), r"range from 255.0 to 255.0, expected \[0, 1\]"),
        (torch.full((1, 1, 2, 2), math.nan), r"range from nan"),
    ],
)
def test_wrong_images_are_named(images, match):
    with pytest.raises(ValueError, match=match):
        plot_samples(images)


def test_wrong_pairs_and_records_are_named():
    with pytest.raises(ValueError, match=r"decompressed images differ.*\(3, 1,.*\(4, 1,"):
        plot_reconstructions(shades(3), shades(4))
    with pytest.raises(ValueError, match="got 0 records"):
        plot_training([])
    with pytest.raises(ValueError, match="each with 'images_seen'"):
        plot_training([{"step": 1}])
