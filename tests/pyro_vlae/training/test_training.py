"""The training loop: exact resumption, signals, budgets, schedule, log and failures."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from tqdm import tqdm

from pyro_vlae.data import ImageDataset, load_dataset
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, SoftFreeBitsELBO
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.training import (
    CheckpointError,
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingSettings,
    distributed,
    fit,
    load_best_weights,
    metrics,
    read_checkpoint,
    read_metrics,
    read_state,
    trainer,
)
from pyro_vlae.training.interrupts import InterruptFlag
from pyro_vlae.training.settings import DecaySchedule
from pyro_vlae.training.validation import validate

# A script, because a killed run needs a process of its own; the tests import it, too.
SCRIPT = '''
import sys, time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vlae.training import distributed
from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.training import TrainingSettings, fit


class Images:
    """In memory, as uint8; re-binarized at every draw like dynamic MNIST."""

    image_shape = (1, 2, 3)

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        # Dark or light: one bit to code.
        light = 30 + 160 * torch.randint(0, 2, (count, 1, 1, 1), generator=generator)
        self.images = (light + torch.randint(0, 30, (count, 1, 2, 3), generator=generator)).byte()
        self.before_draw = None
        self.drawn = []

    def __len__(self):
        return len(self.images)

    def batch(self, index, generator):
        if self.before_draw is not None:
            self.before_draw()
        self.drawn.append(index)
        gray = self.images[index].float() / 255
        return (torch.rand(gray.shape, generator=generator) < gray).float()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6))
        self.modes = set()

    def forward(self, x):
        pyro.module("vae_model", self)
        self.modes.add((self.training, pyro.infer.is_validation_enabled()))
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
            logits = self.net(z).reshape(*z.shape[:-1], 1, 2, 3)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        pyro.module("vae_guide", self)
        with pyro.plate("images", len(x), dim=-1):
            mean, log_scale = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


class RateELBO(Trace_ELBO):
    """Exposes rate and distortion as the free-bits ELBO does."""

    def _differentiable_loss_particle(self, model_trace, guide_trace):
        distortion = -model_trace.nodes["x"]["log_prob_sum"].detach()
        rate = guide_trace.nodes["z"]["log_prob_sum"] - model_trace.nodes["z"]["log_prob_sum"]
        count = len(model_trace.nodes["x"]["value"])
        self.last_rate, self.last_distortion = rate.detach() / count, distortion / count
        return super()._differentiable_loss_particle(model_trace, guide_trace)


def build(seed=3, learning_rate=0.01, **options):
    pyro.clear_param_store()
    torch.manual_seed(seed)
    optimizer = JointOptim(
        torch.optim.Adamax, {"lr": learning_rate}, clip_norm=50.0, ema_decay=0.9, **options
    )
    return Model(), Guide(), optimizer


def train(out, resume=False, epochs=4, **arguments):
    model, guide, optimizer = build()
    train_images = arguments.pop("train_images", Images(35))
    arguments = {"validation": Images(9, seed=1), "progress": False, **arguments}
    arguments.setdefault("elbo", RateELBO())
    settings = {"batch_size": 3, "epochs": epochs, "log_every": 4, "seed": 7}
    settings |= arguments.pop("settings", {})
    result = fit(
        model, guide, train_images, optimizer=optimizer, settings=TrainingSettings(**settings),
        out=out, resume=resume, **arguments
    )
    return result, model, guide, optimizer


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, mode = sys.argv[1:]
    images = Images(35)
    if mode == "hang":  # a second per draw on a clock of our own, then wait to be killed
        now = [0.0]
        distributed.monotonic = lambda: now[0]

        def before_draw():
            now[0] += 1
            if len(images.drawn) == 18 + 2:  # epochs of 11 batches, one validation of 3 (3 draws)
                (Path(out) / "hanging").touch()
                time.sleep(600)

        images.before_draw = before_draw
    settings = {"checkpoint_minutes": 5 / 60}
    train(out, resume=mode == "resume", train_images=images, settings=settings)
'''


@pytest.fixture(scope="module")
def vae(import_script):
    return import_script("tiny_vae_run", SCRIPT)


@pytest.fixture(scope="module")
def script_path(vae):
    return vae.__file__


class Clock:
    """Stands in for the loop's clock; each look advances it."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(distributed, "monotonic", fake)
    return fake


def tensors(model, guide, optimizer):
    found = {f"model.{n}": t.clone() for n, t in model.state_dict().items()}
    found |= {f"guide.{n}": t.clone() for n, t in guide.state_dict().items()}
    state = optimizer.get_state()
    found |= {f"{name}/average": average.clone() for name, average in state["averages"].items()}
    for name, entry in state["state"].items():
        found |= {f"{name}/{kind}": value.clone() for kind, value in entry.items()}
    return found


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def at_draw(images, number, action):
    images.before_draw = lambda: action() if len(images.drawn) == number else None
    return images


def send(number):
    return lambda: os.kill(os.getpid(), number)


def test_every_parameter_moves_and_the_elbo_rises(vae, tmp_path):
    untrained = vae.build()
    before, held_out = tensors(*untrained), vae.Images(400, seed=2)
    first = validate(*untrained[:2], held_out)["elbo"]
    result, *parts = vae.train(tmp_path, epochs=16)
    after = tensors(*parts)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert validate(*parts[:2], held_out)["elbo"] > first + 0.03
    validated = [line for line in result.history if "validation_elbo" in line]
    assert len(validated) == 16
    assert (result.step, result.epoch, result.images_seen) == (176, 16, 528)


def test_sigkilled_run_resumes_to_the_same_bits(vae, script_path, tmp_path):
    def launch(mode):
        command = [sys.executable, str(script_path), str(tmp_path / "killed"), mode]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    process = launch("hang")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed" / "hanging").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    state = read_state(tmp_path / "killed" / "checkpoint")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    assert state["step"] == 16  # in the middle of the second epoch of 11 steps
    assert metrics.stat().st_size >= state["metrics_bytes"] > 0
    with open(metrics, "a") as file:
        file.write('{"step": 20, "cut off": ')  # what a kill in the middle of a line leaves
    assert launch("resume").wait(60) == 0

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result, *parts = vae.train(tmp_path / "whole")
        assert result.step == 44
        resumed, *resumed_parts = vae.train(tmp_path / "killed", resume=True)
    finally:
        torch.set_num_threads(threads)
    assert resumed.step == 44 and resumed.history == result.history
    assert_same_bits(tensors(*resumed_parts), tensors(*parts))
    assert metrics.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_resuming_ends_with_the_same_bits(vae, tmp_path, number):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    result, *parts = vae.train(tmp_path / "whole")
    with pytest.raises(TrainingInterrupted, match=f"{number.name} after step 15") as caught:
        vae.train(tmp_path / "cut", train_images=at_draw(vae.Images(35), 14, send(number)))
    assert caught.value.exit_code == 128 + number
    assert caught.value.checkpoint == tmp_path / "cut" / "checkpoint"
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert read_state(caught.value.checkpoint)["step"] == 15
    resumed, *resumed_parts = vae.train(tmp_path / "cut", resume=True)
    assert_same_bits(tensors(*resumed_parts), tensors(*parts))
    assert resumed.history == result.history
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_vectorized_particles_resume_exactly(vae, tmp_path):
    def elbo():
        return Trace_ELBO(num_particles=2, vectorize_particles=True)

    _, *parts = vae.train(tmp_path / "whole", elbo=elbo())
    with pytest.raises(TrainingInterrupted):
        images = at_draw(vae.Images(35), 5, send(signal.SIGTERM))
        vae.train(tmp_path / "cut", elbo=elbo(), train_images=images)
    _, *resumed_parts = vae.train(tmp_path / "cut", elbo=elbo(), resume=True)
    assert_same_bits(tensors(*resumed_parts), tensors(*parts))


def test_the_weight_of_soft_free_bits_is_logged_and_resumes_exactly(vae, tmp_path):
    whole, *parts = vae.train(tmp_path / "whole", elbo=SoftFreeBitsELBO(0.3))
    with pytest.raises(TrainingInterrupted) as caught:
        images = at_draw(vae.Images(35), 14, send(signal.SIGTERM))
        vae.train(tmp_path / "cut", elbo=SoftFreeBitsELBO(0.3), train_images=images)
    assert 0 < read_state(caught.value.checkpoint)["elbo"]["gamma"] < 1
    resumed, *resumed_parts = vae.train(tmp_path / "cut", elbo=SoftFreeBitsELBO(0.3), resume=True)
    assert_same_bits(tensors(*resumed_parts), tensors(*parts))
    assert resumed.history == whole.history
    assert len({line["gamma"] for line in whole.history}) > 2
    for line in whole.history:
        assert line["elbo"] == pytest.approx(-line["kl_nats"] - line["distortion_nats"])


def test_second_ctrl_c_does_not_wait():
    with InterruptFlag() as flag:
        signal.raise_signal(signal.SIGINT)
        assert flag.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_runs_outside_the_main_thread(vae):
    results = []
    thread = threading.Thread(target=lambda: results.append(vae.train(None, epochs=1)[0].step))
    thread.start()
    thread.join()
    assert results == [11]


def test_log_lines(vae, tmp_path):
    result, *_ = vae.train(tmp_path, epochs=2, settings={"log_every": 5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [line["step"] for line in lines] == [5, 10, 11, 15, 20, 22]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    assert ["validation_elbo" in line for line in lines] == [False, False, True, False, False, True]
    for line in lines:
        assert line["images_seen"] == 3 * line["step"]
        assert line["elbo"] == pytest.approx(-line["kl_nats"] - line["distortion_nats"])
        assert line["gradient_norm"] > 0
    assert set(lines[0]) == {
        *("step", "epoch", "images_seen", "elbo", "kl_nats", "distortion_nats"),
        *("gradient_norm", "learning_rate", "world_size"),
    }


def test_lines_hold_means_since_the_last_one(vae):
    every_step, *_ = vae.train(None, epochs=1, settings={"log_every": 1}, validation=None)
    some, *_ = vae.train(None, epochs=1, settings={"log_every": 4}, validation=None)
    steps = {line["step"]: line for line in every_step.history}
    for line, group in zip(some.history, ([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]), strict=True):
        for name in ("elbo", "kl_nats", "distortion_nats", "gradient_norm"):
            mean = sum(steps[step][name] for step in group) / len(group)
            assert line[name] == pytest.approx(mean)


@pytest.mark.parametrize("elbo", [Trace_ELBO(), RenyiELBO(alpha=0.0, num_particles=3)])
def test_stock_elbos_log_the_elbo_alone(vae, elbo):
    result, *_ = vae.train(None, epochs=1, elbo=elbo, validation=None)
    assert {"kl_nats", "distortion_nats"}.isdisjoint(result.history[0])
    assert -12 < result.history[0]["elbo"] < -2


def test_progress_bar_shows_elbo_bits_and_speed(vae, monkeypatch, capsys):
    monkeypatch.setattr(metrics, "tqdm", lambda **options: tqdm(**{**options, "mininterval": 0}))
    vae.train(None, epochs=2, progress=True)
    shown = capsys.readouterr().err
    assert "ELBO -" in shown and "bits" in shown and "images/s" in shown and "22/22" in shown


def test_batches_are_permutations_without_the_rest(vae):
    images = vae.Images(10)
    vae.train(None, epochs=2, train_images=images, validation=None)
    first, second = torch.cat(images.drawn[:3]), torch.cat(images.drawn[3:])
    for epoch in (first, second):
        assert len(epoch) == len(epoch.unique()) == 9
    assert not torch.equal(first, second)


def test_a_set_smaller_than_a_batch_is_one_batch(vae):
    images = vae.Images(2)
    result, *_ = vae.train(None, epochs=3, train_images=images, validation=None)
    assert [len(index) for index in images.drawn] == [2, 2, 2]
    assert result.images_seen == 6


def test_seed_decides(vae):
    runs = [tensors(*vae.train(None, epochs=1, settings={"seed": s})[1:]) for s in (1, 1, 2)]
    assert_same_bits(runs[0], runs[1])
    assert not torch.equal(runs[0]["model.net.0.weight"], runs[2]["model.net.0.weight"])


def test_validation_disturbs_nothing(vae):
    with_it = tensors(*vae.train(None, epochs=2)[1:])
    without = tensors(*vae.train(None, epochs=2, validation=None)[1:])
    assert_same_bits(with_it, without)


def test_validation_uses_averages_and_evaluation_mode(vae, tmp_path, monkeypatch):
    seen = []

    def spy(model, guide, images, **options):
        metrics = validate(model, guide, images, **options)
        seen.append((model.net[0].weight.detach().clone(), metrics))
        return metrics

    monkeypatch.setattr(trainer, "validate", spy)
    result, model, _, _ = vae.train(tmp_path, epochs=1)
    assert torch.equal(seen[-1][0], model.net[0].weight)
    last = read_checkpoint(tmp_path / "checkpoint").weights["model.net.0.weight"]
    assert not torch.equal(seen[-1][0], last)
    assert result.history[-1]["validation_elbo"] == seen[-1][1]["elbo"]
    # The first step is checked as the caller has it, the others are not; validation evaluates.
    assert model.modes == {(True, True), (True, False), (False, False)}
    assert model.training and pyro.infer.is_validation_enabled()


def test_validate_agrees_with_pyro_and_leaves_generators_alone(vae):
    model, guide, _ = vae.build()
    images = vae.Images(200)
    metrics = validate(model, guide, images, num_images=200, batch_size=32, seed=4)
    pyro.set_rng_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(2)  # noqa: NPY002
    pyro.set_rng_seed(0)
    again = validate(model, guide, images, num_images=200, batch_size=32, seed=4)
    assert again == metrics
    assert random.random() == expected[0] and np.random.rand() == expected[1]  # noqa: NPY002
    assert torch.equal(torch.rand(2), expected[2])
    assert metrics["elbo"] == -(metrics["kl_nats"] + metrics["distortion_nats"])
    x = images.batch(torch.arange(200).repeat(20), torch.Generator().manual_seed(0))
    reference = -Trace_ELBO().loss(model, guide, x) / len(x)
    assert metrics["elbo"] == pytest.approx(reference, abs=0.35)
    few = vae.Images(200)
    validate(model, guide, few, num_images=50, batch_size=32)
    assert len(torch.cat(few.drawn).unique()) == 50


def test_learning_rate_follows_the_schedule(vae):
    settings = {
        "log_every": 1,
        "max_steps": 10,
        "schedule": DecaySchedule(start=0.5),
    }
    result, *_, optimizer = vae.train(None, epochs=50, settings=settings, validation=None)
    rates = [line["learning_rate"] for line in result.history]
    decay = [(1 + math.cos(math.pi * max(0, k - 5) / 5)) / 2 for k in range(10)]
    expected = [0.01 * (0.01 + 0.99 * factor) for factor in decay]
    assert rates == pytest.approx(expected)
    assert optimizer.learning_rate == 0.01  # ready for another run


def test_learning_rate_factors_follow_the_schedule_and_resume_exactly(vae, tmp_path):
    """The first step of Adamax moves each parameter by its learning rate."""
    settings = {"schedule": lambda progress: 0.5, "max_steps": 6}

    def train(out, cut=None, **options):
        model, guide, optimizer = vae.build(learning_rate_factors={"model.net.": 4.0})
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        images = at_draw(vae.Images(35), cut, send(signal.SIGTERM)) if cut else vae.Images(35)
        fit(
            model, guide, images, elbo=Trace_ELBO(), optimizer=optimizer, out=out, progress=False,
            settings=TrainingSettings(batch_size=3, seed=7, **{**settings, **options}),
            resume=(tmp_path / "cut").exists() and cut is None,
        )  # fmt: skip
        after = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        moved = [(a - b).abs().max().item() for a, b in zip(after, before, strict=True)]
        return moved, tensors(model, guide, optimizer)

    moved, _ = train(None, max_steps=1)
    assert moved == pytest.approx([4 * 0.005] * 4 + [0.005] * 4, rel=1e-4)
    _, whole = train(tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        train(tmp_path / "cut", cut=3)
    _, resumed = train(tmp_path / "cut")
    assert_same_bits(resumed, whole)


def test_decay_schedule():
    schedule = DecaySchedule(start=0.4, floor=0.02)
    assert [schedule(p) for p in (0, 0.2, 0.4)] == [1, 1, 1]
    assert schedule(0.7) == pytest.approx(0.51)
    assert schedule(1.0) == pytest.approx(0.02) and schedule(1.3) == pytest.approx(0.02)
    values = [schedule(p / 50) for p in range(51)]
    assert values == sorted(values, reverse=True)
    assert DecaySchedule(start=1.0)(1.0) == 1
    with pytest.raises(ValueError, match=r"floor.*1\.5"):
        DecaySchedule(floor=1.5)


def test_minutes_end_training_and_count_across_resumption(vae, tmp_path, clock):
    """Draws take a second each; the run is cut at 20 s and has a minute in all."""

    def images(cut=None):
        chosen = vae.Images(300)

        def before_draw():
            clock.now += 1
            if len(chosen.drawn) == cut:
                os.kill(os.getpid(), signal.SIGTERM)

        chosen.before_draw = before_draw
        return chosen

    options = {"epochs": None, "settings": {"max_minutes": 1.0, "log_every": 1}, "validation": None}
    with pytest.raises(TrainingInterrupted):
        vae.train(tmp_path, train_images=images(cut=19), **options)
    clock.now += 1000  # time between the runs does not count
    result, *_ = vae.train(tmp_path, train_images=images(), resume=True, **options)
    assert result.step == 60 and result.seconds == 60
    rates = [line["learning_rate"] for line in result.history]
    assert rates[:30] == [0.01] * 30
    assert rates[45] == pytest.approx(0.01 * (0.01 + 0.99 * 0.5), rel=0.01)
    assert rates[59] < 0.0002
    again, *_ = vae.train(tmp_path, train_images=images(), resume=True, **options)
    assert again.step == 60


def test_the_first_budget_to_run_out_ends_the_run(vae, clock):
    clock.tick = 0.01
    assert vae.train(None, epochs=1, settings={"max_minutes": 500.0})[0].step == 11
    assert vae.train(None, epochs=3, settings={"max_steps": 5})[0].step == 5
    assert vae.train(None, epochs=10**6, settings={"max_minutes": 0.05})[0].step < 10**4


def test_checkpoints_are_written_in_between(vae, tmp_path, clock):
    steps = []

    def before_draw():
        clock.now += 60
        if (tmp_path / "checkpoint").exists():
            steps.append(read_state(tmp_path / "checkpoint")["step"])

    images = vae.Images(35)
    images.before_draw = before_draw
    vae.train(tmp_path, epochs=1, train_images=images, settings={"checkpoint_minutes": 3})
    assert steps == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10]
    assert read_state(tmp_path / "checkpoint")["step"] == 11


def test_resuming_a_finished_run_returns_at_once_with_its_averages(vae, tmp_path):
    first, *parts = vae.train(tmp_path)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    images = vae.Images(35)
    second, *resumed_parts = vae.train(tmp_path, resume=True, train_images=images)
    assert images.drawn == [] and second.history == first.history and second.step == first.step
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == written
    with parts[2].averaged(), resumed_parts[2].averaged():
        assert_same_bits(tensors(*resumed_parts), tensors(*parts))


def test_a_finished_run_can_be_prolonged(vae, tmp_path):
    vae.train(tmp_path, epochs=2)
    result, *_ = vae.train(tmp_path, epochs=3, resume=True)
    assert result.step == 33
    assert [line["step"] for line in result.history][-1] == 33


def test_nan_stops_and_keeps_the_last_checkpoint(vae, tmp_path):
    model, guide, optimizer = vae.build()
    images = vae.Images(35)

    def poison():
        if len(images.drawn) == 15:
            with torch.no_grad():
                model.net[0].weight[0, 0] = float("nan")

    images.before_draw = poison
    settings = TrainingSettings(batch_size=3, epochs=4, checkpoint_minutes=0.0, seed=7)
    with pytest.raises(TrainingDivergedError, match=r"step 16: the loss is nan.*step 15 in ") as e:
        fit(
            model, guide, images, elbo=Trace_ELBO(), optimizer=optimizer, settings=settings,
            out=tmp_path, progress=False,
        )  # fmt: skip
    assert str(tmp_path / "checkpoint") in str(e.value)
    assert read_state(tmp_path / "checkpoint")["step"] == 15
    resumed, *parts = vae.train(tmp_path, resume=True, elbo=Trace_ELBO())
    assert resumed.step == 44 and all(t.isfinite().all() for t in tensors(*parts).values())


def test_weights_gone_bad_are_not_saved(vae, tmp_path):
    """A finite loss whose gradient is not: the step spoils the weights, the save notices."""
    model, guide, optimizer = vae.build()

    class Spoiling(Trace_ELBO):
        def loss_and_grads(self, *args):
            loss = super().loss_and_grads(*args)
            if len(images.drawn) == 4:
                model.net[0].weight.grad[0, 0] = float("inf")
            return loss

    images = vae.Images(35)
    settings = TrainingSettings(batch_size=3, epochs=4, checkpoint_minutes=0.0, log_every=100)
    with pytest.raises(TrainingDivergedError, match=r"step 4: .*NaN or infinite.*step 3 in"):
        fit(
            model, guide, images, elbo=Spoiling(), optimizer=optimizer, settings=settings,
            out=tmp_path, progress=False,
        )  # fmt: skip
    assert read_state(tmp_path / "checkpoint")["step"] == 3


def test_folder_with_a_checkpoint_needs_resume(vae, tmp_path):
    vae.train(tmp_path, epochs=1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"already holds.*--resume.*another folder"):
        vae.train(tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="batch_size 3, now it is 5"):
        vae.train(tmp_path, resume=True, settings={"batch_size": 5})
    with pytest.raises(CheckpointError, match="objective RateELBO, now it is Trace_ELBO"):
        vae.train(tmp_path, resume=True, elbo=Trace_ELBO())
    with pytest.raises(CheckpointError, match=r"training_data .* with hash .*, now it is"):
        vae.train(tmp_path, resume=True, train_images=vae.Images(35, seed=1))
    model, guide, _ = vae.build()
    for optimizer, difference in (
        (JointOptim(torch.optim.Adam, {"lr": 0.01}, ema_decay=0.9), "optimizer Adamax.* Adam:"),
        (JointOptim(torch.optim.Adamax, {"lr": 0.01}), "ema_decay 0.9, now it is None"),
    ):
        with pytest.raises(CheckpointError, match=difference):
            fit(
                model, guide, vae.Images(35), elbo=vae.RateELBO(), optimizer=optimizer,
                settings=TrainingSettings(batch_size=3, epochs=2, seed=7), out=tmp_path,
                resume=True, progress=False,
            )  # fmt: skip
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_nothing_to_resume(vae, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        vae.train(tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="output folder"):
        vae.train(None, resume=True)


def test_unwritable_folder_shows_before_training(vae, tmp_path):
    (tmp_path / "file").write_text("")
    images = vae.Images(35)
    with pytest.raises(CheckpointError, match=r"cannot write to .*another output folder"):
        vae.train(tmp_path / "file" / "run", train_images=images)
    assert images.drawn == []


def test_metrics_shorter_than_the_checkpoint_says(vae, tmp_path):
    with contextlib.suppress(TrainingInterrupted):
        vae.train(tmp_path, train_images=at_draw(vae.Images(35), 14, send(signal.SIGTERM)))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has \d+ bytes.*move it away"):
        vae.train(tmp_path, resume=True)
    metrics.unlink()
    assert vae.train(tmp_path, resume=True)[0].step == 44


def test_config_is_kept_and_must_be_json(vae, tmp_path):
    vae.train(tmp_path / "kept", epochs=1, config={"prior": "flow"})
    assert read_state(tmp_path / "kept" / "checkpoint")["config"] == {"prior": "flow"}
    with pytest.raises(TypeError, match=r"config .* JSON .*Path"):
        vae.train(tmp_path / "odd", epochs=1, config={"prior": Path(".")})
    assert not (tmp_path / "odd").exists()  # refused before anything is trained


def test_errors_in_programs_keep_their_own_message():
    data = ImageDataset.from_arrays(torch.rand(30, 1, 8, 8).round())
    sizes = [ResNetArchitecture((1, 8, 8), dims, channels=(4,), features=8) for dims in (3, 5)]
    model, guide = (
        binary_vlae(architecture=sizes[0], prior="normal"),
        GaussianGuide(architecture=sizes[1]),
    )
    message = "the codes have 5 dimensions, the prior has 3: build prior, .* for one code_dim"
    with pytest.raises(ValueError, match=f"^{message}$"):  # without Pyro's table of shapes
        fit(
            model, guide, data.train, elbo=Trace_ELBO(), optimizer=JointOptim(torch.optim.Adam, {}),
            settings=TrainingSettings(epochs=1), progress=False,
        )  # fmt: skip


def test_images_that_are_no_split_are_refused(vae, tmp_path):
    data = ImageDataset.from_arrays(torch.rand(30, 1, 4, 4).round())
    for name, wrong in (("train_images", data), ("validation", data.train.images)):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=rf"must be a split .*, got {kind}: .*from_arrays"):
            vae.train(tmp_path / "run", epochs=1, **{name: wrong})
    assert not (tmp_path / "run").exists()


def test_parameters_that_pyro_does_not_train_are_named(vae):
    model, guide, optimizer = vae.build()
    stale, _, _ = vae.Model(), None, None
    pyro.module("vae_model", stale)  # an older model under the same name
    with pytest.raises(RuntimeError, match=r"'model\.net\.0\.weight'.*clear_param_store"):
        fit(
            model, guide, vae.Images(9), elbo=Trace_ELBO(), optimizer=optimizer,
            settings=TrainingSettings(epochs=1), progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("forgotten", ["model", "guide", "tensor"])
def test_tensors_that_pyro_does_not_know_are_not_left_untrained(vae, forgotten):
    model, guide, optimizer = vae.build()
    offset = torch.zeros(1, requires_grad=forgotten == "tensor")

    def own_model(x):
        if forgotten != "model":
            return model(x)
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
            logits = model.net(z).reshape(*z.shape[:-1], 1, 2, 3)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def own_guide(x):
        if forgotten != "guide":
            pyro.module("vae_guide", guide)
        with pyro.plate("images", len(x), dim=-1):
            mean, log_scale = (guide.net(x) + offset).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    def train():
        settings = TrainingSettings(epochs=1)
        options = {"elbo": Trace_ELBO(), "optimizer": optimizer, "settings": settings}
        return fit(own_model, own_guide, vae.Images(9), progress=False, **options)

    shape = r"\(1,\)" if forgotten == "tensor" else r"\(\d.*\)"
    with pytest.raises(RuntimeError, match=rf"would not be trained, .* shape {shape}:.*module"):
        train()
    forgotten = None
    offset.requires_grad_(False)
    assert train().step == 1


def test_gray_images_are_refused_at_the_first_step(vae):
    class Gray(vae.Images):
        def batch(self, index, generator):
            return self.images[index].float() / 255

    with pytest.raises(ValueError, match="support"):
        vae.train(None, train_images=Gray(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "budget"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, r"epochs must be a whole number of at least 1, got 1\.5"),
        ({"epochs": 1, "log_every": True}, "log_every must be a whole number .* got True"),
        ({"epochs": 1, "checkpoint_minutes": math.nan}, "checkpoint_minutes must be .* got nan"),
        ({"max_minutes": math.nan}, "max_minutes must be a number .* got nan"),
        ({"max_minutes": 0}, "max_minutes must be positive, got 0"),
        ({"epochs": 1, "batch_size": 2.5}, r"batch_size must be .* got 2\.5"),
        ({"epochs": 1, "batch_size": 0}, "batch_size must be .* at least 1, got 0"),
        ({"epochs": 1, "seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**options)


def test_empty_set(vae):
    with pytest.raises(ValueError, match="no images"):
        vae.train(None, train_images=vae.Images(0))


def test_float64_modules_train_on_float32_draws():
    data = load_dataset("digits")
    model, guide = binary_vlae(prior="normal").double(), GaussianGuide().double()
    result = fit(
        model,
        guide,
        data.train,
        elbo=FreeBitsELBO(),
        optimizer=JointOptim(torch.optim.Adamax, {"lr": 1e-3}),
        settings=TrainingSettings(batch_size=4, max_steps=2, validation_images=4),
        validation=data.validation,
        progress=False,
    )
    assert result.step == 2 and math.isfinite(result.history[-1]["validation_elbo"])


def test_training_works_under_no_grad(vae):
    expected = tensors(*vae.train(None, epochs=1)[1:])
    with torch.no_grad():
        _, *parts = vae.train(None, epochs=1)
        assert not torch.is_grad_enabled()
    assert_same_bits(tensors(*parts), expected)


def test_gradients_left_by_an_interrupted_step_do_not_count(vae):
    expected = tensors(*vae.train(None, epochs=1)[1:])
    model, guide, optimizer = vae.build()
    for parameter in (*model.parameters(), *guide.parameters()):
        parameter.grad = torch.ones_like(parameter)
    settings = TrainingSettings(batch_size=3, epochs=1, log_every=4, seed=7)
    fit(
        model, guide, vae.Images(35), elbo=vae.RateELBO(), optimizer=optimizer, settings=settings,
        progress=False,
    )  # fmt: skip
    assert_same_bits(tensors(model, guide, optimizer), expected)


def test_the_elbo_is_told_the_progress(vae):
    seen = []

    def floor(progress):
        seen.append(progress)
        return 2.0 if progress < 0.5 else 0.0

    elbo = FreeBitsELBO(floor)
    vae.train(None, epochs=1, elbo=elbo, validation=None)
    assert seen[0] == 0 and sorted(set(seen)) == pytest.approx([step / 11 for step in range(11)])


def test_validation_needs_images(vae):
    model, guide, _ = vae.build()
    with pytest.raises(ValueError, match="no images"):
        validate(model, guide, vae.Images(0))
    with pytest.raises(ValueError, match="num_images is 0, expected at least 1"):
        validate(model, guide, vae.Images(4), num_images=0)


def test_read_metrics_is_what_was_logged(vae, tmp_path):
    result, *_ = vae.train(tmp_path, epochs=1)
    assert read_metrics(tmp_path / "metrics.jsonl") == result.history


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_training_with_compiled_networks(vae, monkeypatch):
    plain, *_ = vae.train(None, epochs=1)
    monkeypatch.setattr(vae.Model, "networks", ("net",), raising=False)
    compilations = []
    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *a, **k: compilations.append(k) or original(*a, **k)
    )
    result, model, *_ = vae.train(None, epochs=1, compile=True, precision="fp32")
    assert compilations == [{}]
    assert model.net._compiled_call_impl is None
    for line, other in zip(result.history, plain.history, strict=True):
        assert line["elbo"] == pytest.approx(other["elbo"], rel=1e-3)


@pytest.mark.parametrize("lost", ["deleted", "moved", "replaced", "log"])
def test_a_log_that_disappears_is_an_error_that_names_it(vae, tmp_path, lost):
    out = tmp_path / "run"

    def lose():
        if lost == "moved":
            out.rename(tmp_path / "elsewhere")
        elif lost == "log":
            (out / "metrics.jsonl").unlink()
        else:
            shutil.rmtree(out)
        if lost == "replaced":
            out.mkdir()
            (out / "metrics.jsonl").write_text("")

    with pytest.raises(
        CheckpointError, match=r"metrics\.jsonl was deleted, moved.*step 1 in .*run"
    ):
        vae.train(out, train_images=at_draw(vae.Images(35), 14, lose))
    assert not (out / "checkpoint").exists() or lost == "log"
    kept = {"moved": tmp_path / "elsewhere", "log": out}.get(lost)
    if kept:  # the last checkpoint can be resumed
        assert vae.train(kept, resume=True)[0].step == 44


def test_an_altered_line_of_the_log_is_noticed(vae, tmp_path):
    vae.train(tmp_path, epochs=1)
    metrics = tmp_path / "metrics.jsonl"
    content = metrics.read_text()
    metrics.write_text(content.replace('"step": 4', '"step": 5', 1))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl was altered; restore"):
        vae.train(tmp_path, resume=True)
    metrics.write_text(content)
    assert vae.train(tmp_path, resume=True)[0].step == 44


def test_on_log_sees_each_record_and_stops_the_run(vae, tmp_path):
    seen = []

    def stop(record):
        seen.append(record.copy())
        record.clear()  # a copy
        return len(seen) == 3

    result, *_ = vae.train(tmp_path / "cut", on_log=stop)
    assert result.history == seen and result.step == seen[-1]["step"] == 11
    assert read_state(tmp_path / "cut" / "checkpoint")["step"] == 11
    resumed, *parts = vae.train(tmp_path / "cut", resume=True)
    whole, *whole_parts = vae.train(tmp_path / "whole", on_log=lambda record: None)
    assert resumed.history == whole.history
    assert_same_bits(tensors(*parts), tensors(*whole_parts))


def test_an_exception_of_on_log_is_passed_on_after_a_checkpoint(vae, tmp_path):
    def fail(record):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        vae.train(tmp_path, on_log=fail)
    assert read_state(tmp_path / "checkpoint")["step"] == 4


def test_fit_returns_with_the_averages_and_the_checkpoint_keeps_the_rest(
    vae, tmp_path, monkeypatch
):
    scored = []

    def spy(model, guide, images, **options):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        elbo = [-3.0, -1.0, -2.0, -4.0][len(scored)]
        scored.append(weights)
        return {"elbo": elbo, "kl_nats": 0.5, "distortion_nats": -elbo - 0.5}

    monkeypatch.setattr(trainer, "validate", spy)
    _, model, guide, optimizer = vae.train(tmp_path)
    checkpoint = read_checkpoint(tmp_path / "checkpoint")
    averages = optimizer.get_state()["averages"]
    for name, value in model.named_parameters():
        assert torch.equal(value, averages[f"model.{name}"])
        assert not torch.equal(value, checkpoint.weights[f"model.{name}"])
    load_best_weights(checkpoint, {"model": model, "guide": guide})
    for name, value in model.state_dict().items():
        assert torch.equal(value, scored[1][name]) and not torch.equal(value, scored[3][name])
    vae.train(tmp_path / "unvalidated", epochs=1, validation=None)
    with pytest.raises(CheckpointError, match="holds no best weights"):
        load_best_weights(tmp_path / "unvalidated" / "checkpoint", {"model": model})


def test_resuming_reads_the_checkpoint_once(vae, tmp_path, monkeypatch):
    vae.train(tmp_path, epochs=1)
    reads, original = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: reads.append(1) or original(*args, **kw))
    vae.train(tmp_path, resume=True)
    assert len(reads) == 1
    checkpoint = read_checkpoint(tmp_path / "checkpoint")
    vae.train(tmp_path, resume=checkpoint)
    assert len(reads) == 2


class Whole:
    """Images that are drawn as they are."""

    def __init__(self, images):
        self.images, self.image_shape = images, tuple(images.shape[1:])

    def __len__(self):
        return len(self.images)

    def batch(self, index, generator):
        return self.images[index]


def test_a_guide_that_creates_its_parameters_lazily(linear_gaussian, tmp_path):
    problem = linear_gaussian(dtype=torch.float32)
    data = Whole(problem.sample(6))

    def train(guide, folder, **options):
        pyro.clear_param_store()
        optimizer = JointOptim(torch.optim.Adam, {"lr": 0.01})
        settings = TrainingSettings(batch_size=6, max_steps=4, log_every=1)
        parts = {"elbo": Trace_ELBO(), "optimizer": optimizer, "settings": settings}
        return fit(problem.model, guide, data, out=folder, progress=False, **parts, **options)

    whole, stopped, resumed = (AutoNormal(problem.model) for _ in range(3))
    history = train(whole, tmp_path / "whole").history
    train(stopped, tmp_path / "parts", on_log=lambda line: line["step"] == 2)
    with pytest.raises(CheckpointError, match=r"Call a guide that creates .* once first"):
        train(resumed, tmp_path / "parts", resume=True)
    resumed(data.images)
    losses = [line["elbo"] for line in train(resumed, tmp_path / "parts", resume=True).history]
    assert losses == [line["elbo"] for line in history]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
