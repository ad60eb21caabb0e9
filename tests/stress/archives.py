"""Odd archives in the place of every file that is read: right, or refused in one line, in memory.

OMP_NUM_THREADS=1 python tests/stress/archives.py --count 2000 --seed 0

Links, absolute names and "..", wrong sizes and checksums, two members of one name, nested archives,
small files that inflate to gigabytes, and streams with something after their end. Each case is
tried as it is, then `--count` times with further damage.
"""

import argparse
import hashlib
import json
import logging
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from fuzz import attempt, damage, run_targets
from odd_files import (
    BOMB,
    EITHER,
    REFUSED,
    RIGHT,
    bomb,
    header,
    npy,
    odd_checkpoints,
    odd_npz,
    odd_streams,
    odd_tar,
    zipped,
)
from tiny import example, tiny_runs

from pyro_vlae.commands.compression import read_images
from pyro_vlae.data import BINARY, load_images
from pyro_vlae.data.files import FileStore, PublishedFile
from pyro_vlae.data.midi import read_midi, write_midi

ALLOWED = 600  # MB that the peak of the process may grow
UNCHECKED = (".mid", ".npy")  # a changed value cannot be noticed


def targets(root):
    """Names, paths, calls, cases, and expected results of all readers but those of a run."""
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (20, 6, 5), dtype=np.uint8)
    content = chance.bytes(5000)
    own = root / "own.npz"

    def loaded():
        data = load_images(own)
        return {part: getattr(data, part).images for part in ("train", "validation", "test")}

    yield own, loaded, odd_npz({"images": images, "labels": np.arange(20)})
    (root / "data").mkdir()
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for name, cases in (("inner.bin", odd_tar("inner.bin", content)), ("plain", None)):
        stored = cases or odd_streams(content)
        path = root / "data" / ("all.tar.gz" if cases else "plain.gz")

        def read(name=name, path=path, packed=bool(cases)):
            archive = None
            if packed:  # as if the odd archive were the published one
                data = path.read_bytes()
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
                archive = PublishedFile("data", path.name, digest, len(data))
            file = PublishedFile("data", name, checksum, len(content), archive=archive)
            return FileStore("odd", root, download=False).read(file)

        yield path, read, stored
    midi = root / "roll.mid"
    write_midi(midi, images.reshape(-1, 6)[:88].T[:, :88] > 128)
    right = midi.read_bytes()
    track = right[22:]
    slow = right[:22] + b"\xff\xff\xff\xff\xff\xff\x7f" + track
    no_ticks = right[:12] + bytes(2) + right[14:]
    length = (len(track) + 7).to_bytes(4, "big")
    odd_midi = {"as it should be": (right, RIGHT), "no ticks": (no_ticks, REFUSED)}
    odd_midi["a long rest"] = slow[:18] + length + slow[22:], REFUSED
    yield midi, lambda: {"roll": torch.from_numpy(read_midi(midi))}, odd_midi
    array = root / "images.npy"
    good, shape = npy(images > 128), (BOMB // 1024, 32, 32)
    odd_array = {
        "as it should be": (good, RIGHT),
        "an .npz file": (odd_npz({"images": images})["as it should be"][0], REFUSED),
        "a bomb": (zipped(bomb("images.npy", header(shape))), REFUSED),
        "only a header": (header((1 << 40, 8, 8)), REFUSED),
        "nothing": (b"", REFUSED),
        "more after its end": (good + b"more", EITHER),
    }
    yield array, lambda: {"x": read_images(array, BINARY, 1)}, odd_array


def peak():
    """The largest memory that the process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments=None):
    """Try all cases; the exit status is 1 if any call does what it may not, or memory grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000, help="cases with further damage")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    chance, outcomes, bad = random.Random(options.seed), Counter(), 0
    with tempfile.TemporaryDirectory() as temporary, tiny_runs():
        root, runs = Path(temporary), Path(temporary) / "runs"
        train = example("mnist_vlae").main
        for name in ("run", "other"):
            train(["--dataset", "digits", "--device", "cpu", "--out", str(runs / name)])
        tried = list(targets(root))
        for path, calls in run_targets(runs / "run").items():
            if path.suffix == ".npz":
                with np.load(path) as file:
                    arrays = {key: file[key] for key in file}
                cases = odd_npz(arrays)
                # Scores that are read again from the start are right, whatever was in the file.
                if path.name == "scores.partial.npz":
                    cases = {case: (content, EITHER) for case, (content, _) in cases.items()}
                tried += [(path, call, cases) for call in calls]
            elif path.suffix == ".pt":
                tried += [(path, call, odd_checkpoints(path.read_bytes())) for call in calls]
        every = [(target, case) for target in tried for case in target[2]]
        again = [(*chance.choice(every), True) for _ in range(options.count)]
        expected, before = {}, peak()
        for (path, call, cases), case, more in [*((*one, False) for one in every), *again]:
            (content, allowed), kind = cases[case], ""
            if call not in expected:
                if not path.exists():
                    path.write_bytes(next(iter(cases.values()))[0])
                expected[call] = call()
            if more and content:
                content, kind = damage(content, chance)
                allowed = EITHER
            right = path.read_bytes()
            path.write_bytes(content)
            if more and path.suffix in UNCHECKED:
                outcome = attempt(lambda call=call: bool(call() is None) or None, path, None)
            else:
                outcome = attempt(call, path, expected[call])
            path.write_bytes(right)
            grown, before = peak() - before, max(before, peak())
            if outcome not in allowed or grown > ALLOWED:
                bad += 1
                print(f"{path.name} {case} {kind}: {outcome}, {grown:+.0f} MB", flush=True)
                outcome = "bad"
            outcomes[f"{path.name} {outcome}"] += 1
    print(f"{sum(outcomes.values())} cases, {bad} bad: {json.dumps(outcomes, sort_keys=True)}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
