"""A run folder belongs to one process, whose lock dies with it."""

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from pyro_vlae.reproducible import write_atomically
from pyro_vlae.training import CheckpointError, own_folder

HOLD = """
import sys, time
from pathlib import Path
from pyro_vlae.training import own_folder
with own_folder(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_another_process_is_refused_until_the_owner_is_killed(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(CheckpointError, match=r"run is in use by another run: .*choose"):
            own_folder(folder).__enter__()
    finally:
        process.kill()
        process.communicate()
    with own_folder(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert list(folder.iterdir()) == []


def test_the_owner_may_enter_again_but_not_another_thread(tmp_path):
    errors = []

    def enter():
        try:
            own_folder(tmp_path).__enter__()
        except CheckpointError as error:
            errors.append(error)

    with own_folder(tmp_path):
        with own_folder(tmp_path):
            pass
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_leftovers_of_a_killed_process_are_removed_and_other_files_kept(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for name in ("samples.png.tmp", "results.json.tmp", "checkpoint/checkpoint.pt.tmp"):
        (tmp_path / name).write_text("half")
    for name in ("notes.tmp", "samples.png", "mine.png.backup.tmp"):
        (tmp_path / name).write_text("mine")
    with own_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "notes.tmp",
        "samples.png",
        "mine.png.backup.tmp",
    }


def test_leftovers_name_the_process_that_wrote_them(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda old, new: os._exit(1))
    process = multiprocessing.get_context("fork").Process(
        target=write_atomically, args=(tmp_path / "results.json", b"half")
    )
    process.start()
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == [f"results.json.{process.pid}.tmp"]
    with own_folder(tmp_path):
        pass
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_folder_in_which_nothing_was_written_is_removed(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("new", "old", "used"):
        with pytest.raises(RuntimeError, match="no such weights"), own_folder(tmp_path / name):
            if name == "used":
                (tmp_path / name / "config.json").touch()
            raise RuntimeError("no such weights")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "used"]
