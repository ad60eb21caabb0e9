import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vlae.__main__ import main
from pyro_vlae.commands.compression import (
    check_target,
    compress,
    decompress,
    read_images,
    write_images,
)
from pyro_vlae.data import BINARY, BYTES, GRAY
from pyro_vlae.experiments import ColorRecipe, ConfigError, GrayRecipe
from pyro_vlae.infer import initialize


@pytest.fixture
def array():
    return (np.random.default_rng(0).random((3, 28, 28)) < 0.1).astype(np.uint8)


@pytest.mark.parametrize("name", ["back.npy", "back"])
def test_files_survive_without_loss(tmp_path, array, name, capsys):
    np.save(tmp_path / "images.npy", array)
    file = tmp_path / "deep" / "images.vlae"
    options = ["--model", "static-mnist"]
    assert compress([*options, "--lossless", str(tmp_path / "images.npy"), str(file)]) == 0
    assert f"3 images, {file.stat().st_size} bytes" in capsys.readouterr().out
    assert decompress([*options, str(file), str(tmp_path / name)]) == 0
    assert torch.equal(
        read_images(tmp_path / name, BINARY, 1)[:, 0], torch.from_numpy(array).float()
    )


def test_a_folder_of_png_files_is_compressed_with_loss(tmp_path, array, capsys, monkeypatch):
    from pyro_vlae.codec import LossyCodec

    monkeypatch.setattr(LossyCodec.__init__, "__defaults__", (4,))
    write_images(tmp_path / "in", torch.from_numpy(array).float().unsqueeze(1), BINARY)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["0.png", "1.png", "2.png"]
    options, file = ["--model", "static-mnist"], str(tmp_path / "file")
    compress([*options, "--lossy", str(tmp_path / "in"), file])
    assert "warning: 3 of 3 images have a rate above 2 bits" in capsys.readouterr().out
    outs = []
    for seed in (0, 0, 1):
        decompress([*options, file, str(tmp_path / "out.npy"), "--seed", str(seed)])
        outs.append(np.load(tmp_path / "out.npy"))
    assert outs[0].shape == (3, 28, 28)
    assert np.array_equal(outs[0], outs[1]) and not np.array_equal(outs[0], outs[2])


def test_values_0_and_255_and_layouts(tmp_path):
    for made in (np.array([[[0, 255]]], np.uint8), np.array([[[[False, True]]]]), [[[0.0, 1.0]]]):
        np.save(tmp_path / "x.npy", made)
        assert torch.equal(
            read_images(tmp_path / "x.npy", BINARY, 1), torch.tensor([[[[0.0, 1.0]]]])
        )


def test_input_that_is_no_binary_images_is_named(tmp_path):
    file = tmp_path / "x.npy"
    for made, message in (
        (np.arange(4).reshape(1, 2, 2), "4 different values from 0 to 3.*binarize"),
        (np.zeros(4), r"shape \(4,\), float64; expected numbers, images"),
    ):
        np.save(file, made)
        with pytest.raises(ConfigError, match=message):
            read_images(file, BINARY, 1)
    file.write_text("text")
    with pytest.raises(ConfigError, match=r"not an \.npy file"):
        read_images(file, BINARY, 1)
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 3)))
    with pytest.raises(ConfigError, match=r"a\.npz is not an \.npy file"):
        read_images(tmp_path / "a.npz", BINARY, 1)
    np.save(file, np.array([[["a"]]]))
    with pytest.raises(ConfigError, match="expected numbers"):
        read_images(file, BINARY, 1)
    with pytest.raises(ConfigError, match="no PNG files"):
        read_images(tmp_path, BINARY, 1)
    for size in (2, 3):
        Image.new("L", (size, 2)).save(tmp_path / f"{size}.png")
    with pytest.raises(ConfigError, match=r"3\.png has shape \(2, 3\)"):
        read_images(tmp_path, BINARY, 1)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-30])
    with pytest.raises(ConfigError, match=r"2\.png cannot be read as an image"):
        read_images(tmp_path, BINARY, 1)
    with pytest.raises(FileNotFoundError):
        read_images(tmp_path / "none.npy", BINARY, 1)
    with pytest.raises(ConfigError, match="3 channels"):
        check_target(tmp_path / "out", BINARY, 3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "7.png").touch()
    with pytest.raises(ConfigError, match="not empty"):
        check_target(tmp_path / "full", BINARY, 1)
    with pytest.raises(ConfigError, match=r"must be an \.npy file or a folder"):
        check_target(tmp_path / "out.png", BINARY, 1)


@pytest.mark.parametrize("kind", ["--lossless", "--lossy"])
def test_images_of_another_size_are_refused(tmp_path, kind):
    np.save(tmp_path / "small.npy", np.zeros((2, 20, 20), np.uint8))
    files = [str(tmp_path / "small.npy"), str(tmp_path / "file")]
    with pytest.raises(ConfigError, match=r"of shape \(1, 20, 20\), the model takes \(1, 28, 28\)"):
        compress(["--model", "static-mnist", kind, *files])


def test_targets_are_checked_before_coding(tmp_path, array, monkeypatch):
    from pyro_vlae.codec import LosslessCodec

    def fail(self, images):
        raise AssertionError

    monkeypatch.setattr(LosslessCodec, "compress", fail)
    monkeypatch.setattr(LosslessCodec, "decompress", fail)
    source = tmp_path / "x.npy"
    np.save(source, array)
    (tmp_path / "y.npy").mkdir()
    (tmp_path / "deep").mkdir()
    same = tmp_path / "deep" / ".." / "x.npy"
    for target, message in ((tmp_path, "is a folder: name"), (same, "would be replaced")):
        with pytest.raises(ConfigError, match=message):
            compress(["--model", "static-mnist", "--lossless", str(source), str(target)])
    with pytest.raises(ConfigError, match="would be replaced"):
        decompress(["--model", "static-mnist", str(source), str(same)])
    with pytest.raises(ConfigError, match=r"y\.npy is a folder: name"):
        check_target(tmp_path / "y.npy", BINARY, 1)
    with pytest.raises(ConfigError, match=r"cannot make the folder .*x\.npy.*choose another"):
        compress(["--model", "static-mnist", "--lossless", str(source), str(source / "file")])


def test_images_of_the_wrong_kind_are_refused(tmp_path):
    file = tmp_path / "x.npy"
    for shape, dtype, channels, message in (
        ((2, 4, 4), float, 1, "type float64, the model takes gray images.*uint8"),
        (
            (2, 4, 4),
            np.uint8,
            3,
            r"1 channels, the model takes 3: expected an array \(N, 3, H, W\)",
        ),
        ((2, 4, 4, 3), np.uint8, 3, "4 channels, the model takes 3"),
    ):
        np.save(file, np.zeros(shape, dtype))
        with pytest.raises(ConfigError, match=message):
            read_images(file, GRAY, channels)
    for mode, color, message in (
        ("RGB", (1, 2, 3), "is in color, the model takes one channel"),
        ("RGBA", (1, 1, 1, 7), "transparency"),
        ("I;16", 700, "mode I;16"),
    ):
        Image.new(mode, (4, 4), color).save(tmp_path / "0.png")
        with pytest.raises(ConfigError, match=message):
            read_images(tmp_path, GRAY, 1)


@pytest.mark.parametrize("values, shape", [(GRAY, (4, 1, 4, 8)), (BYTES, (2, 3, 4, 5))])
@pytest.mark.parametrize("name", ["x.npy", "x"])
def test_levels_are_read_as_written(tmp_path, values, shape, name):
    x = values.support[torch.arange(256)[-np.prod(shape) :].view(shape)]
    write_images(tmp_path / name, x, values)
    assert torch.equal(read_images(tmp_path / name, values, shape[1]), x)


def test_gray_pictures_may_be_stored_in_other_modes(tmp_path):
    picture = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 17)
    for mode in ("L", "RGB", "P"):
        picture.convert(mode).save(tmp_path / "0.png")
        read = read_images(tmp_path, GRAY, 1)
        assert torch.equal(read.flatten(), GRAY.support[::17])


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    for name in ("0.png", "1.PNG"):
        Image.new("L", (2, 2), 51).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert len(read_images(tmp_path, GRAY, 1)) == 2


@pytest.fixture(params=[GrayRecipe, ColorRecipe])
def levels(request, monkeypatch):
    """Images of random levels, and an untrained model of this family that the commands load."""
    shape = (1, 9, 10) if request.param is GrayRecipe else (3, 8, 8)
    torch.manual_seed(0)
    recipe = request.param(image_shape=shape)
    model, guide = (part.eval() for part in recipe.build())
    levels = torch.randint(256, (16, *shape))
    initialize(model, guide, recipe.values.support[levels])
    model.card = {"config": recipe.to_config(), "results": None}
    monkeypatch.setattr("pyro_vlae.commands.compression.load_pair", lambda name: (model, guide))
    return levels[:3]


@pytest.mark.parametrize("source", ["x.npy", "x"])
def test_files_of_levels_survive_without_loss(tmp_path, levels, source, capsys):
    values = GrayRecipe.values
    write_images(tmp_path / source, values.support[levels], values)
    compress(["--model", "run", "--lossless", str(tmp_path / source), str(tmp_path / "file")])
    unit = "pixel" if levels.shape[1] == 1 else "dimension"
    printed = capsys.readouterr().out
    assert f"bits per {unit}" in printed and "warning" not in printed
    for name in ("y", "y.npy"):
        decompress(["--model", "run", str(tmp_path / "file"), str(tmp_path / name)])
        read = read_images(tmp_path / name, values, levels.shape[1])
        assert torch.equal(read, values.support[levels])
    assert np.load(tmp_path / "y.npy").dtype == np.uint8


def test_the_package_offers_both_commands(tmp_path, capsys):
    for command in ("compress", "decompress"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0 and "--model" in capsys.readouterr().out
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    wrong = ["decompress", "--model", "static-mnist", str(tmp_path / "x.png"), str(tmp_path / "o")]
    assert main(wrong) == 2
    assert "not a file of compressed images" in capsys.readouterr().err
