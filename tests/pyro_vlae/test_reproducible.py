import multiprocessing

import pytest
import torch

from pyro_vlae.reproducible import evaluation_mode, write_atomically


def test_an_error_names_the_file_alone(tmp_path):
    for path in (tmp_path / "none" / "x", tmp_path):  # no folder, and a folder itself
        with pytest.raises(OSError) as caught:
            write_atomically(path, b"content")
        assert str(caught.value).endswith(f": '{path}'")
    assert list(tmp_path.iterdir()) == []


def cudnn_settings():
    cudnn = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # the newer settings are not those that it stands for
        allowed = None
    return allowed, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


@pytest.mark.skipif(
    not hasattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision"),
    reason="this torch has only the older setting",
)
@pytest.mark.parametrize("everywhere", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("convolutions", [None, "ieee", "tf32"])
@pytest.mark.parametrize("allow_tf32", [False, True])
def test_convolutions_run_in_float32_however_tf32_was_set(everywhere, convolutions, allow_tf32):
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = everywhere
        torch.backends.cudnn.allow_tf32 = allow_tf32
        if convolutions is not None:
            torch.backends.cudnn.conv.fp32_precision = convolutions
        settings = cudnn_settings()
        with evaluation_mode():
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert cudnn_settings()[0] is not True
        assert cudnn_settings() == settings
    finally:
        torch.backends.fp32_precision = before
        torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matrix_products_are_computed_in_float32(precision):
    a, b = torch.randn(2, 256, 256)
    expected = a @ b
    try:
        torch.set_float32_matmul_precision(precision)
        with evaluation_mode():
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.equal(a @ b, expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nothing_is_evaluated_in_half_precision(dtype):
    layer, x = torch.nn.Linear(3, 3), torch.randn(2, 3)
    with torch.autocast("cpu", dtype):
        with evaluation_mode(layer):
            assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
            assert layer(x).dtype == torch.float32
        assert layer(x).dtype == dtype


def test_a_process_does_not_disturb_another_one_that_writes_the_same_file(tmp_path):
    def write_often(letter):
        for _ in range(100):
            write_atomically(tmp_path / "x", letter * 1000)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_often, args=(letter,)) for letter in (b"a", b"b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "x").read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
