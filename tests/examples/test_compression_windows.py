"""The script that compresses images under the windows of a study."""

import json
import math
import warnings
from pathlib import Path

import pytest

from pyro_vlae.codec import LossyCodec
from pyro_vlae.data import load_dataset
from pyro_vlae.experiments import ConfigError, load_run

ROOT = Path(__file__).parents[2]


def test_each_window_of_a_study_has_a_size(load_example, tmp_path, capsys):
    study = tmp_path / "study"
    trained = ["--dataset", "digits", "--device", "cpu", "--windows", "none", "4x2"]
    sizes = ["--images", "64", "--num-samples", "2", "--eval-images", "3", "--probe-images", "40"]
    assert load_example("window_study").main([*trained, *sizes, "--out", str(study)]) == 0
    script = load_example("compression_windows")
    few = ["--images", "4", "--log2-candidates", "6"]
    assert script.main([str(study), *few, "--out", str(tmp_path / "out")]) == 0
    windows = json.loads((tmp_path / "out" / "windows.json").read_text())["windows"]
    assert set(windows) == {"none", "4x2"}
    printed = capsys.readouterr().out
    x = load_dataset("digits").test.subset(4, seed=0).batch(slice(None))
    for name, found in windows.items():
        assert found["bits_per_image"] == 8 * found["bytes"] / 4
        assert f"window {name}: {found['bytes']:,} bytes" in printed
        codec = LossyCodec(*load_run(study / name), log2_candidates=6)
        assert codec.rates(x).mean().item() == pytest.approx(found["rate_bits"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of too high a rate
            assert len(codec.compress(x)) == found["bytes"]
    assert (tmp_path / "out" / "windows.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match="no finished runs"):
        script.main([str(tmp_path / "out")])


def test_the_page_states_the_committed_sizes():
    page = (ROOT / "docs" / "compression.md").read_text()
    found = json.loads((ROOT / "results" / "compression" / "windows.json").read_text())
    for window, row in found["windows"].items():
        bits, rate = (math.ceil(100 * row[name]) / 100 for name in ("bits_per_image", "rate_bits"))
        cells = f"{row['bytes']:,} bytes | {bits:.2f} | {rate:.2f} bits"
        assert f"| `{window}` | {cells} | {row['images_with_too_high_a_rate']} |" in page
