"""Training by two ranks: data, initialization, resumption, signals, and failures."""

import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from pyro_vlae.training import read_state

# A script, because ranks are processes; the tests import it for the results of one process.
SCRIPT = '''
import os
import signal
import sys
import time
from pathlib import Path

import pyro
import torch
import torch.distributed

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import JointOptim, SoftFreeBitsELBO
from pyro_vlae.infer.distributed import RankError, rank, world_size
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.training import TrainingSettings, distributed, fit, trainer, validate

SIZES = ResNetArchitecture((1, 8, 8), 2, channels=(2, 4), features=4)


class Images:
    """In memory; re-binarized at every draw like dynamic MNIST."""

    image_shape = (1, 8, 8)

    def __init__(self, count, seed=0, binary=False):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator).byte()
        if binary:
            self.images = 255 * (self.images > 127).byte()
        self.drawn = []
        self.before_draw = lambda: None

    def __len__(self):
        return len(self.images)

    def batch(self, index, generator):
        self.drawn.append(index.tolist())
        self.before_draw()
        gray = self.images[index].float() / 255
        return (torch.rand(gray.shape, generator=generator) < gray).float()


def train(out, resume=False, images=None, config=None, learning_rate=0.01, seed=0, **settings):
    pyro.clear_param_store()
    torch.manual_seed(seed)
    model = binary_vlae(architecture=SIZES, flow_layers=1, flow_hidden_dims=(4,), masked_layers=2)
    guide = GaussianGuide(architecture=SIZES)
    optimizer = JointOptim(torch.optim.Adamax, {"lr": learning_rate}, ema_decay=0.9)
    settings = {"batch_size": 5, "max_steps": 6, "log_every": 2, "validate_every": 4} | settings
    settings = TrainingSettings(**{"schedule": lambda progress: 1.0, **settings})
    elbo = SoftFreeBitsELBO(30.0)
    images = images or Images(23)
    result = fit(
        model, guide, images, elbo=elbo, optimizer=optimizer, settings=settings, progress=False,
        validation=Images(9, seed=1), out=out, resume=resume, config=config,
    )
    state = {**model.state_dict(), **guide.state_dict(prefix="guide.")}
    averages = optimizer.get_state()["averages"]
    tensors = {name: value.detach().clone() for name, value in {**state, **averages}.items()}
    return {**tensors, "gamma": elbo.gamma, "history": result.history}, (model, guide), images


def initial_weights():
    """After a step that changes nothing, on images without randomness."""
    images = Images(23, binary=True)
    return train(None, max_steps=1, learning_rate=1e-30, images=images)[:2]


def refused(**arguments):
    try:
        train(None, **arguments)
    except (RankError, ValueError) as error:
        return str(error)


def in_a_group(folder):
    """Several trainings in one group, by `fit` from Python."""
    # Parameters of other first values on rank 1: those of rank 0 count.
    whole, _, images = train(folder / "whole", seed=rank())
    cut, *_ = train(folder / "cut", max_steps=3)
    resumed, *_ = train(folder / "cut", resume=True)
    untrained, modules = initial_weights()
    if rank() == 1:  # its clock must not count
        distributed.monotonic = lambda: 5 * time.monotonic()
    timed, *_ = train(None, max_steps=None, max_minutes=0.5 / 60, checkpoint_minutes=0.0)
    return {
        "whole": whole,
        "resumed": resumed,
        "untrained": untrained,
        "timed": timed,
        "validated": validate(*modules, Images(50), batch_size=16),
        "drawn": images.drawn,
        "other data": refused(images=Images(23, seed=rank())),
        "other config": refused(config={"prior": "flow", "window": rank()}),
        "other setting": refused(log_every=2 + rank()),
        "small batch": refused(batch_size=1),
    }


def under_torchrun(folder, mode):
    """Note who saves and when; "kill": rank 1 dies in step 3; "wait": until it gets a signal."""
    images = Images(23)
    save = trainer.save_checkpoint

    def noting(path, modules, optimizer, state, *rest):
        with open(folder / "saves.txt", "a") as file:
            file.write(f"{rank()} {state['step']}\\n")
        save(path, modules, optimizer, state, *rest)

    def before_draw():
        if mode == "kill" and rank() == 1 and len(images.drawn) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "wait":
            (folder / f"waiting{rank()}").touch()
            time.sleep(0.1)

    trainer.save_checkpoint = noting
    images.before_draw = before_draw
    print("only rank 0 prints")
    often = {"checkpoint_minutes": 0.0} if mode == "kill" else {"max_steps": 10_000}
    train(folder / "run", resume=mode == "wait", images=images, **often)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    if mode.isdigit():
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store",
            rank=int(mode), world_size=2)
        torch.save(in_a_group(folder), folder / f"rank{rank()}.pt")
    else:
        from pyro_vlae.experiments.command_line import exit_status

        sys.exit(exit_status(lambda: under_torchrun(folder, mode), "--resume"))
'''
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(import_script):
    return import_script("rank_training", SCRIPT)


@pytest.fixture(scope="module")
def ranks(alone, run_two_ranks):
    return run_two_ranks(alone)


def torchrun(script, folder, mode):
    options = ["--standalone", "--nproc-per-node", "2", script.__file__, str(folder), mode]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def weights(results):
    return {name: value for name, value in results.items() if name != "history"}


@pytest.mark.parametrize("name", ["whole", "resumed", "untrained", "timed"])
def test_all_ranks_end_with_the_same_weights(ranks, name):
    torch.testing.assert_close(*(weights(results[name]) for results in ranks), rtol=0, atol=0)


def test_a_resumed_run_of_two_ranks_ends_with_the_same_bits(ranks):
    whole, resumed = ranks[0]["whole"], ranks[0]["resumed"]
    torch.testing.assert_close(weights(whole), weights(resumed), rtol=0, atol=0)
    assert [line["step"] for line in resumed["history"]] == [2, 3, 4, 6]
    assert whole["history"][-1] == resumed["history"][-1]
    assert [line["step"] for line in whole["history"]] == [2, 4, 6]
    assert {line["world_size"] for line in whole["history"]} == {2}
    assert ranks[1]["whole"]["history"] == whole["history"]


def test_the_ranks_divide_the_batches_of_one_process(ranks, alone):
    _, _, images = alone.train(None)
    batches = [index for index in images.drawn if len(index) == 5]
    drawn = [[index for index in results["drawn"] if len(index) < 5] for results in ranks]
    whole = [index for index in ranks[0]["drawn"] if len(index) == 5]
    assert whole == batches[:1]  # for the initialization
    assert drawn[0] == [batch[::2] for batch in batches]
    assert drawn[1] == [batch[1::2] for batch in batches]


def test_initialization_is_that_of_rank_0_on_the_whole_batch(ranks, alone):
    expected = weights(alone.initial_weights()[0])
    del expected["gamma"]
    found = {name: ranks[1]["untrained"][name] for name in expected}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_validation_is_that_of_one_process(ranks, alone):
    _, modules = alone.initial_weights()
    expected = alone.validate(*modules, alone.Images(50), batch_size=16)
    assert ranks[0]["validated"] == ranks[1]["validated"]
    assert ranks[0]["validated"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("other data", "rank 1 has training images .*hash .* rank 0 has "),
        ("other config", "rank 1 has window 1, rank 0 has 0"),
        ("other setting", "rank 1 has log_every 3, rank 0 has 2"),
        ("small batch", "a batch of 1 images cannot be divided among 2 ranks"),
    ],
)
def test_what_differs_between_ranks_is_named_at_the_start(ranks, what, message):
    for results in ranks:
        assert re.search(message, results[what])


def test_a_killed_rank_ends_the_others_and_one_process_resumes(alone, tmp_path, caplog):
    started = time.monotonic()
    process = torchrun(alone, tmp_path, "kill")
    out, err = process.communicate(timeout=100)
    assert process.returncode != 0 and time.monotonic() - started < 60
    assert out.count("only rank 0 prints") == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "rank 0 of 2 lost contact" in line and "Traceback" not in err.split(line)[0]
    assert (tmp_path / "saves.txt").read_text().splitlines() == ["0 1", "0 2"]
    state = read_state(tmp_path / "run" / "checkpoint")
    assert state["world_size"] == 2 and state["step"] == 2
    with caplog.at_level(logging.WARNING):
        results, *_ = alone.train(tmp_path / "run", resume=True)
    assert "world size 1; the run so far had 2" in caplog.text
    assert [line["step"] for line in results["history"]] == [2, 4, 6]
    assert read_state(tmp_path / "run" / "checkpoint")["world_size"] == 1


def test_two_ranks_resume_a_run_of_one_and_save_once_on_sigterm(alone, tmp_path):
    alone.train(tmp_path / "run", max_steps=3)
    process = torchrun(alone, tmp_path, "wait")
    try:
        deadline = time.monotonic() + 60
        while not all((tmp_path / f"waiting{r}").exists() for r in range(2)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "resuming with world size 2; the run so far had 1" in err
    assert err.count("training stopped by SIGTERM") == 1
    saves = [save.split() for save in (tmp_path / "saves.txt").read_text().splitlines()]
    assert [rank for rank, _ in saves] == ["0", "0"]  # after the first step, and at the end
    state = read_state(tmp_path / "run" / "checkpoint")
    assert state["step"] == int(saves[-1][1]) > 4 and state["world_size"] == 2
