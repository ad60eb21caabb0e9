"""Damage the files of a run and of data sets: each call is right, or names the file in one line.

OMP_NUM_THREADS=1 python tests/stress/fuzz.py --count 2000 --seed 0
"""

import argparse
import gzip
import hashlib
import io
import json
import logging
import lzma
import random
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import torch
from tiny import example, tiny_runs

from pyro_vlae.analysis import compare_models
from pyro_vlae.data.files import FileStore, PublishedFile
from pyro_vlae.experiments import BinaryRecipe, load_run
from pyro_vlae.experiments.paper_tables import results_page
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.training import read_checkpoint
from pyro_vlae.training.metrics import MetricsLog

SHOWN = (OSError, RuntimeError, ValueError)  # what scripts report in a line, without a traceback


def damage(content, chance):
    """A damaged copy of a file's bytes, and what was done to it."""
    kind = chance.choice(["bits", "cut", "drop", "repeat", "insert", "zero", "replace"])
    data = bytearray(content)
    at = chance.randrange(len(data))
    until = min(len(data), at + chance.choice([1, 4, 64, 1024]))
    if kind == "bits":
        for _ in range(chance.choice([1, 1, 3, 20])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at:until]
    elif kind == "repeat":
        data[at:at] = data[at:until]
    elif kind == "insert":
        data[at:at] = chance.randbytes(until - at)
    elif kind == "zero":
        data[at:until] = bytes(until - at)
    else:
        choices = [b"", b"{}", b"[1]", b"null", b"PK\x03\x04", b"[" * 100_000, b"\xff\xfe{}"]
        data = bytearray(chance.choice(choices))
    return bytes(data), kind


def damage_json(content, chance):
    """Valid JSON with a changed, missing, or added value."""
    values = json.loads(content)
    if not values:
        return damage(content, chance)
    name = chance.choice(sorted(values))
    kind = chance.choice(["change", "remove", "rename", "nest"])
    if kind == "remove":
        del values[name]
    elif kind == "rename":
        values[name + "x"] = values.pop(name)
    elif kind == "nest":
        values = {"x": values}
    else:
        odd = [None, "x", -1, 0, 1e308, float("nan"), [1], {}, True, 10**400, 2]
        values[name] = chance.choice(odd)
    return json.dumps(values).encode(), f"json {kind}"


def equal(a, b):
    """Whether two results are the same, with equal NaNs."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(7e77), b.nan_to_num(7e77))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


def run_targets(run):
    """Files of a run, each with calls that read it."""
    state = read_checkpoint(run / "checkpoint").state
    logged = state["metrics_bytes"], state["metrics_digest"]

    def metrics():
        log = MetricsLog(run / "metrics.jsonl", *logged)
        log.close()
        return log.lines or None

    def compare():
        return str(compare_models({"a": run, "b": run.parent / "other"}))

    def score():
        torch.manual_seed(0)
        model, guide = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        return marginal_log_likelihood(
            *toy(model, guide), torch.zeros(3, 2), 20, resume_file=run / "scores.partial.npz"
        ).log_prob

    score()

    def loaded():
        model, guide = load_run(run)
        return {**model.state_dict(), **{f"guide.{n}": t for n, t in guide.state_dict().items()}}

    def card():
        return load_run(run)[0].card

    return {
        run / "checkpoint" / "checkpoint.pt": [loaded],
        run / "config.json": [lambda: BinaryRecipe.resume(run).to_config(), card],
        run / "results.json": [card, lambda: results_page(run.parent), compare],
        run / "metrics.jsonl": [metrics],
        run / "scores.npz": [compare],
        run / "scores.partial.npz": [score],
    }


def toy(*modules):
    """A model and a guide around two modules, for the file of unfinished scores."""
    import pyro
    import pyro.distributions as dist

    class Model(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            with pyro.plate("images", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Guide(Model):
        def forward(self, x):
            with pyro.plate("images", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    return Model(modules[0]), Guide(modules[1])


def data_targets(root):
    """Data files, plain, compressed, and in an archive, each with the call that reads it."""
    content = random.Random(0).randbytes(5000)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("folder/inner.bin")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    packed = buffer.getvalue()
    archive = PublishedFile(
        "data", "all.tar.gz", f"sha256:{hashlib.sha256(packed).hexdigest()}", len(packed)
    )
    files = {"plain.bin": content, "a.bin.gz": gzip.compress(content), "b.bin.xz": None}
    files |= {"b.bin.xz": lzma.compress(content), "all.tar.gz": packed}
    targets = {}
    (root / "data").mkdir(parents=True)
    for name, stored in files.items():
        path = root / "data" / name
        path.write_bytes(stored)
        wanted = PublishedFile("data", name.removesuffix(".gz").removesuffix(".xz"), checksum, 5000)
        if name == "all.tar.gz":
            wanted = PublishedFile("data", "inner.bin", checksum, 5000, archive=archive)

        def read(wanted=wanted):
            return FileStore("fuzzed", root, download=False).read(wanted)

        targets[path] = [read]
    return targets


def attempt(call, path, expected):
    """What a call on a damaged file does: "right", "refused", or a description of the fault."""
    try:
        found = call()
    except SHOWN as error:
        message = str(error)
        if "\n" in message:
            return f"more than a line: {message[:300]}"
        named = path.name in message or str(path.parent) in message
        return "refused" if named else f"the file is not named: {message[:300]}"
    except BaseException:
        return traceback.format_exc()[-1500:]
    if found is None or equal(found, expected):
        return "right"
    return f"wrong result: {str(found)[:200]}"


def main(arguments=None):
    """Damage files; the exit status is 1 if any call is neither right nor a clear error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    chance, outcomes, bad = random.Random(options.seed), Counter(), 0
    with tempfile.TemporaryDirectory() as temporary, tiny_runs():
        runs = Path(temporary) / "runs"
        train = example("mnist_vlae").main
        for name in ("run", "other"):
            train(["--dataset", "digits", "--device", "cpu", "--out", str(runs / name)])
        targets = run_targets(runs / "run") | data_targets(Path(temporary) / "files")
        intact = {path: path.read_bytes() for path in targets}
        expected = {path: [call() for call in calls] for path, calls in targets.items()}
        for number in range(options.count):
            path = chance.choice(list(targets))
            small = path.suffix == ".json" and chance.random() < 0.6
            content, kind = (damage_json if small else damage)(intact[path], chance)
            for call, right in zip(targets[path], expected[path], strict=True):
                path.write_bytes(content)
                outcome = attempt(call, path, right)
                if outcome not in ("right", "refused"):
                    bad += 1
                    print(f"{number} {path.name} {kind}: {outcome}", flush=True)
                    outcome = "bad"
                outcomes[f"{path.name} {outcome}"] += 1
            path.write_bytes(intact[path])
    print(f"{options.count} mutations, {bad} bad: {json.dumps(outcomes, sort_keys=True)}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
