"""Figures hold the images that they were given, where a reader expects them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from pyro_vlae.plots import plot_groups, plot_reconstructions, plot_rows, plot_samples, save_figure


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


def test_rows_carry_their_names_on_the_left():
    figure = plot_rows({"a long name of a row": shades(3), "short": shades(5)}, "a title")
    corners = [corner for corner, _ in placed(figure)]
    assert len(corners) == 8
    names = figure.axes[0].texts
    assert [text.get_text() for text in names] == ["a long name of a row", "short"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for row, text in enumerate(names):
        box = text.get_window_extent(canvas.get_renderer())
        assert box.x0 >= 0  # not clipped
        first = figure.axes[0].transData.transform((min(left for left, _ in corners), row))
        assert box.x1 < first[0]


def test_long_titles_are_wrapped_above_the_images():
    title = "Samples: " + ", ".join(f"option {n} of a model" for n in range(12)) + "\nsecond line"
    figure = plot_samples(shades(16), title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.texts[0].get_window_extent(canvas.get_renderer())
    width, height = figure.get_size_inches() * figure.dpi
    assert box.x0 >= 0 and box.x1 <= width and box.y1 <= height
    assert box.y0 >= figure.axes[0].get_window_extent().y1


def test_no_text_is_clipped():
    pairs = plot_reconstructions(shades(32), shades(32), title="Static MNIST")
    for figure in (plot_samples(shades(64), "64 samples"), pairs):
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
    save_figure(plot_samples(shades(64)), path)
    assert path.read_bytes() == before
    broken = plot_samples(shades(1))
    broken.savefig = lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        save_figure(broken, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["samples.png"]
    with pytest.raises(OSError):
        save_figure(plot_samples(shades(1)), tmp_path / "missing" / "samples.png")


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


def test_wrong_pairs_are_named():
    with pytest.raises(ValueError, match=r"decompressed images differ.*\(3, 1,.*\(4, 1,"):
        plot_reconstructions(shades(3), shades(4))
