"""Kill runs at random moments, resume them, and compare every bit with an uninterrupted run.

OMP_NUM_THREADS=1 python tests/stress/kill.py --count 200 --seed 0 [--jobs mnist scoring ...]
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tiny import example, tiny_runs

from pyro_vlae.data import DatasetNotFoundError
from pyro_vlae.experiments.command_line import exit_status
from pyro_vlae.training import has_checkpoint

DIGITS = ("--dataset", "digits", "--device", "cpu")
JOBS = {  # script, options
    "mnist": ("mnist_vlae", DIGITS),
    "scoring": ("mnist_vlae", (*DIGITS, "--num-samples", "64", "--eval-images", "48")),
    "cifar10": ("cifar10_vlae", ("--device", "cpu")),
    "windows": (
        "window_study",
        (*DIGITS, "--windows", "none", "3x2", "--images", "128", "--probe-images", "40"),
    ),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Statuses of a run that a signal ended, or that had just ended by itself.
ENDED = {
    signal.SIGKILL: {-signal.SIGKILL, 0},
    signal.SIGTERM: {-signal.SIGTERM, 143, 0},  # negative: before the handler was installed
    signal.SIGINT: {130, 0},
}
VARYING = {"train_seconds", "command", "checksum", "seconds"}


def start(job, out, resume, log):
    """Fork a process that runs the job's script; its output goes to a file."""
    script, options = JOBS[job]
    main = example(script).main
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        continued = ["--resume"] if resume else []
        started = [] if resume and job != "windows" else options
        arguments = [*started, *continued, "--out", str(out)]
        status = exit_status(lambda: main(arguments), "--resume --out {out}")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def end(pid):
    """Wait for a process; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def begun(job, out):
    """Whether the job can be resumed."""
    return any(has_checkpoint(path) for path in (out, *out.glob("*/"))) or job == "windows"


def flat(value, name=""):
    """The tensors and other values of a nested structure by name."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{name}.{i}").items()}
    return {name: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value}


def content(out):
    """Everything in a folder of runs that must not depend on interruptions."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".pt":
            stored = torch.load(path, weights_only=True)
            stored["state"] = strip(json.loads(stored["state"]))
            found[name] = flat(stored)
        elif path.suffix == ".json":
            found[name] = strip(json.loads(path.read_text()))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
        else:
            found[name] = path.read_bytes()
    return found


def strip(values):
    return {name: value for name, value in values.items() if name not in VARYING}


def differences(found, expected):
    """Names of files and entries that differ."""
    names = sorted(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys():
        if found[name] != expected[name]:
            names.append(name)
            if isinstance(found[name], dict):
                keys = found[name].keys() | expected[name].keys()
                wrong = [k for k in keys if found[name].get(k) != expected[name].get(k)]
                names += sorted(wrong)[:5]
    return names


def reference(job, folder):
    """Content and seconds of an uninterrupted run."""
    begin = time.monotonic()
    status = end(start(job, folder / "out", False, folder / "log"))
    if status:
        raise RuntimeError(f"{job} fails without being killed:\n{(folder / 'log').read_text()}")
    return content(folder / "out"), time.monotonic() - begin


def trial(job, folder, expected, seconds, chance):
    """Kill a run up to three times and let it finish: signals that hit, and what went wrong."""
    out, log, hits, wrong = folder / "out", folder / "log", [], []
    for _ in range(chance.randint(1, 3)):
        number = chance.choice(SIGNALS)
        pid = start(job, out, begun(job, out), log)
        time.sleep(chance.uniform(0, seconds))
        os.kill(pid, number)
        status = end(pid)
        text = log.read_text() if log.exists() else ""
        if status not in ENDED[number] or "Traceback" in text:
            wrong.append(f"{number.name}: status {status}: {text[-2000:]}")
        if status == 0:
            break
        hits.append(number.name)
    status = end(start(job, out, begun(job, out), log))
    if status:
        wrong.append(f"the last resumption: status {status}: {log.read_text()[-2000:]}")
    else:
        wrong += differences(content(out), expected)
    return hits, wrong


def main(arguments=None):
    """Run the trials; the exit status is 1 if any went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="signals that hit")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chance, total, bad, runs = random.Random(options.seed), Counter(), 0, 0
    with tempfile.TemporaryDirectory() as temporary, tiny_runs() as load:
        load("digits")
        jobs, expected = list(options.jobs), {}
        if "cifar10" in jobs:
            try:
                load("cifar10")
            except DatasetNotFoundError:
                print("no CIFAR-10 here: leaving out its job")
                jobs.remove("cifar10")
        for job in jobs:
            folder = Path(temporary) / job
            folder.mkdir()
            expected[job] = reference(job, folder)
            print(f"{job}: {expected[job][1]:.1f} s uninterrupted", flush=True)
        while total.total() < options.count:
            job = jobs[runs % len(jobs)]
            folder = Path(temporary) / f"trial{runs}"
            folder.mkdir()
            hits, wrong = trial(job, folder, *expected[job], chance)
            total.update(f"{job} {hit}" for hit in hits)
            runs += 1
            bad += bool(wrong)
            if wrong:
                print(f"run {runs}, {job}, {hits}: {wrong}", flush=True)
            if runs % 5 == 0:
                print(f"{runs} runs, {total.total()} kills, {bad} bad", flush=True)
            shutil.rmtree(folder)
    print(f"{runs} runs with {total.total()} kills, {bad} bad: {dict(sorted(total.items()))}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
