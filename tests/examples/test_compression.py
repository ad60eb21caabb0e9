"""The script that measures compression, and the figures that the documentation takes from it."""

import re
from pathlib import Path

import numpy as np
import pytest

from pyro_vlae.reproducible import read_json

ROOT = Path(__file__).parents[2]


@pytest.mark.real_data
def test_it_measures_a_few_images(load_example, tmp_path, real_data_root, monkeypatch, capsys):
    script = load_example("compression")
    monkeypatch.setattr(script, "MNIST_IMAGES", 500)
    options = ["static-mnist", "--images", "4", "--lossy-images", "3", "--log2-candidates", "6"]
    assert script.main([*options, "--out", str(tmp_path), "--data-dir", str(real_data_root)]) == 0
    rows = read_json(tmp_path / "compression.json")
    free, code = rows["static-mnist"]["lossless"], rows["static-mnist"]["lossy"]
    assert free["images"] == 4 and code["images"] == 3
    assert code["images_with_too_high_a_rate"] == 3
    assert (tmp_path / "static-mnist.png").exists()
    page = (tmp_path / "table.md").read_text()
    assert page in capsys.readouterr().out + "\n" and f"{free['bits_per_pixel']:.4f}" in page


def test_adaptive_coding_learns_the_probabilities(load_example):
    adaptive = load_example("other_compressors").adaptive
    rng = np.random.default_rng(0)
    noise = rng.random((200, 28, 28)) < 0.11
    entropy = -0.11 * np.log2(0.11) - 0.89 * np.log2(0.89)
    assert entropy < adaptive(noise, False) < entropy + 0.05
    stripes = np.broadcast_to(np.arange(28) % 2 == 0, (200, 28, 28))
    assert adaptive(stripes, False) < 0.01
    # Ink in the lower half alone, independent of other pixels: only the position tells where.
    rows = np.where(np.arange(28) < 14, 0.02, 0.3)[:, None]
    halves = rng.random((3000, 28, 28)) < rows
    assert adaptive(halves, True) < adaptive(halves, False)


def test_the_page_states_the_committed_results():
    folder = ROOT / "results" / "compression"
    rows = read_json(folder / "compression.json")
    table = (folder / "table.md").read_text()
    assert table.count("| compressor |") == len(rows)
    for row in rows.values():
        assert f"| {row['lossless']['bits_per_pixel']:.4f} |" in table
        assert "lossy" not in row or f"| {row['lossy']['bits_per_image']:.2f} |" in table
    page = (ROOT / "docs" / "compression.md").read_text()
    assert re.search(r"\{include\} \.\./results/compression/table\.md", page)
    overhead = rows["static-mnist"]["lossless"]
    assert overhead["bits_per_pixel"] < 1.005 * overhead["negative_elbo_bits_per_pixel"]
