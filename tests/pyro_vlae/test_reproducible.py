import pytest

from pyro_vlae.reproducible import write_atomically


def test_an_error_names_the_file_alone(tmp_path):
    for path in (tmp_path / "none" / "x", tmp_path):  # no folder, and a folder itself
        with pytest.raises(OSError) as caught:
            write_atomically(path, b"content")
        assert str(caught.value).endswith(f": '{path}'")
    assert list(tmp_path.iterdir()) == []
