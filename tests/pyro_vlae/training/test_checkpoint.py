"""Checkpoints: round trips, damage, other architectures, and what must stay untouched."""

import io
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vlae.infer.optim import JointOptim
from pyro_vlae.training import weights
from pyro_vlae.training.checkpoint import (
    capture_random_state,
    load_averaged_weights,
    load_checkpoint,
    read_state,
    restore_random_state,
    save_checkpoint,
)
from pyro_vlae.training.weights import (
    CheckpointError,
    load_weights,
    named_parameters,
    save_weights,
)

GENERATOR = torch.Generator()


class Tied(nn.Module):
    """Two layers of one weight, a transposed parameter, overlapping buffers."""

    def __init__(self, width=3, tied=True):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        if tied:
            self.second.weight = self.first.weight
        self.turned = nn.Parameter(torch.randn(4, width).t())
        base = torch.arange(6.0)
        self.register_buffer("head", base[:4])
        self.register_buffer("tail", base[2:])
        self.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))
        self.register_buffer("ready", torch.tensor(False))


class Stateful(nn.Module):
    """Its loading has a hook, as data-dependent initialization may have."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.loaded = False

    def _load_from_state_dict(self, *args):
        self.loaded = True
        super()._load_from_state_dict(*args)


def build(seed=0, **options):
    torch.manual_seed(seed)
    modules = {"model": Tied(**options), "guide": Stateful()}
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.9)
    optimizer.register(named_parameters(modules).items())
    return modules, optimizer


def train(modules, optimizer, steps=3):
    parameters = named_parameters(modules)
    for _ in range(steps):
        sum((p**2).sum() for p in parameters.values()).backward()
        optimizer(set(parameters.values()))


def snapshot(modules, optimizer=None):
    tensors = {f"{k}.{n}": t.clone() for k, m in modules.items() for n, t in m.state_dict().items()}
    if optimizer is not None:
        state = optimizer.get_state()
        tensors |= {f"{name}/average": v.clone() for name, v in state["averages"].items()}
        for name, entry in state["state"].items():
            tensors |= {f"{name}/{kind}": value.clone() for kind, value in entry.items()}
    return tensors


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def saved(tmp_path):
    modules, optimizer = build()
    train(modules, optimizer)
    save_checkpoint(tmp_path, modules, optimizer, {"step": 3, "config": {"width": 3}}, GENERATOR)
    return tmp_path, modules, optimizer


def test_round_trip_with_tied_and_overlapping_tensors(saved):
    folder, modules, optimizer = saved
    modules["model"].ready.fill_(True)
    save_checkpoint(folder, modules, optimizer, {"step": 4, "config": {"width": 3}}, GENERATOR)
    fresh, fresh_optimizer = build(seed=1)
    identity = {n: id(p) for n, p in named_parameters(fresh).items()}
    assert load_checkpoint(folder, fresh, fresh_optimizer, GENERATOR) == {
        "step": 4,
        "config": {"width": 3},
    }
    assert_same(snapshot(fresh, fresh_optimizer), snapshot(modules, optimizer))
    assert {n: id(p) for n, p in named_parameters(fresh).items()} == identity
    assert fresh["model"].first.weight is fresh["model"].second.weight
    assert fresh["model"].ready and fresh["guide"].loaded
    train(modules, optimizer)
    train(fresh, fresh_optimizer)
    assert_same(snapshot(fresh, fresh_optimizer), snapshot(modules, optimizer))


def test_optimizer_that_has_seen_nothing_learns_the_parameters(saved):
    folder, modules, optimizer = saved
    fresh, _ = build(seed=1)
    unused = JointOptim(torch.optim.Adamax, {"lr": 0.1}, ema_decay=0.9)
    load_checkpoint(folder, fresh, unused, GENERATOR)
    with optimizer.averaged(), unused.averaged():
        assert_same(snapshot(fresh), snapshot(modules))


def test_a_checkpoint_is_one_file_that_replaces_the_last(saved):
    folder, modules, optimizer = saved
    (folder / "notes.txt").write_text("mine")
    save_checkpoint(folder, modules, optimizer, {"step": 4}, GENERATOR)
    assert set(files(folder)) == {"checkpoint.pt", "notes.txt"}
    assert read_state(folder) == {"step": 4}


@pytest.mark.parametrize("where", ["weights", "average", "exp_avg"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_not_saved(saved, where, value):
    folder, modules, optimizer = saved
    before = files(folder)
    state = optimizer.get_state()
    tensors = {"weights": modules["guide"].weight, "average": state["averages"]["guide.weight"]}
    tensors |= state["state"]["guide.weight"]
    with torch.no_grad():
        tensors[where][1] = value
    with pytest.raises(CheckpointError, match=r"'guide\.weight'.*NaN or infinite"):
        save_checkpoint(folder, modules, optimizer, {"step": 9}, GENERATOR)
    assert files(folder) == before


def test_failed_write_keeps_the_old_checkpoint(saved, monkeypatch):
    folder, modules, optimizer = saved
    before = snapshot(modules, optimizer)

    def full(*args):
        raise OSError(28, "No space left on device")

    train(modules, optimizer, 1)
    monkeypatch.setattr(weights, "write_atomically", full)
    with pytest.raises(CheckpointError, match=r"No space left.*untouched"):
        save_checkpoint(folder, modules, optimizer, {"step": 4}, GENERATOR)
    fresh, fresh_optimizer = build(seed=1)
    assert load_checkpoint(folder, fresh, fresh_optimizer, GENERATOR)["step"] == 3
    assert_same(snapshot(fresh, fresh_optimizer), before)


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    modules, optimizer = build()
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(
            tmp_path / "file" / "checkpoint", modules, optimizer, {"step": 1}, GENERATOR
        )
    with pytest.raises(CheckpointError, match="cannot write"):
        save_weights(tmp_path / "file" / "weights.safetensors", modules, {})


def test_parameter_outside_the_modules_is_not_lost_silently(tmp_path):
    modules, optimizer = build()
    optimizer.register([("scale", torch.ones(1, requires_grad=True))])
    with pytest.raises(CheckpointError, match=r"'scale'.*PyroParam"):
        save_checkpoint(tmp_path, modules, optimizer, {"step": 1}, GENERATOR)


def damage_nothing_there(folder):
    shutil.rmtree(folder)


def damage_state_keys(folder):
    torch.save({"format": 3}, folder / "checkpoint.pt")


def damage_version(folder):
    torch.save({"format": 99}, folder / "checkpoint.pt")


def damage_unreadable(folder):
    (folder / "checkpoint.pt").unlink()
    (folder / "checkpoint.pt").mkdir()


def damage_digit(folder):
    content = (folder / "checkpoint.pt").read_bytes()
    assert content.count(b'"step": 3') == 1
    (folder / "checkpoint.pt").write_bytes(content.replace(b'"step": 3', b'"step": 4'))


def damage_truncated(folder):
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1])


def damage_flipped(folder):
    """A bit of the averages, which stand in the file as they are in memory."""
    path = folder / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    average = torch.load(path)["optimizer"]["averages"]["model.first.weight"].numpy().tobytes()
    content[content.index(average)] ^= 1
    path.write_bytes(content)


def damage_by_compression(folder):
    """The same content; such a file of a few megabytes could hold gigabytes of zeros."""
    path = folder / "checkpoint.pt"
    with zipfile.ZipFile(path) as file:
        members = [(info.filename, file.read(info)) for info in file.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing_there, "no checkpoint in"),
        (damage_state_keys, r"checkpoint\.pt is truncated or altered"),
        (damage_version, "format 99"),
        (damage_digit, r"checkpoint\.pt is truncated or altered"),
        (damage_unreadable, r"cannot read .*checkpoint\.pt"),
        (damage_truncated, r"checkpoint\.pt is truncated or altered"),
        (damage_flipped, r"checkpoint\.pt is truncated or altered"),
        (damage_by_compression, r"checkpoint\.pt is truncated or altered"),
    ],
)
def test_damage_is_named_and_loads_nothing(saved, damage, message):
    folder, _, _ = saved
    damage(folder)
    fresh, fresh_optimizer = build(seed=1)
    before = snapshot(fresh, fresh_optimizer)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, fresh, fresh_optimizer, GENERATOR)
    assert_same(snapshot(fresh, fresh_optimizer), before)


def test_no_flipped_bit_goes_unnoticed(saved):
    folder, _, _ = saved
    path = folder / "checkpoint.pt"
    content = path.read_bytes()
    fresh, fresh_optimizer = build(seed=1)
    load_checkpoint(folder, fresh, fresh_optimizer, GENERATOR)
    expected = snapshot(fresh, fresh_optimizer)
    for position in range(0, len(content), 97):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        try:
            assert load_checkpoint(folder, fresh, fresh_optimizer, GENERATOR)["step"] == 3
        except CheckpointError:
            continue
        assert_same(snapshot(fresh, fresh_optimizer), expected)  # in a time stamp or in padding


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(model=Tied(width=4)), r"'model\.first\.weight'.*\(3, 3\).*\(4, 4\)"),
        (lambda m: m.update(guide=nn.Linear(2, 2)), r"lacks 'guide\.bias'"),
        (lambda m: m.pop("guide"), r"has 'guide\.weight', which the modules lack"),
        (lambda m: m["guide"].double(), r"'guide\.weight' as torch\.float32.*float64"),
    ],
)
def test_another_architecture_is_named_and_loads_nothing(saved, change, message):
    folder, _, _ = saved
    stored = files(folder)
    fresh, _ = build(seed=1)
    change(fresh)
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.1})
    before = snapshot(fresh)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder, fresh, optimizer, GENERATOR)
    assert "Build the modules with the options" in str(caught.value)
    assert_same(snapshot(fresh), before)
    assert files(folder) == stored


def test_untied_weights_do_not_fit_tied_ones(tmp_path):
    modules, _ = build(tied=False)
    save_weights(tmp_path / "weights.safetensors", modules, {})
    tied, _ = build(seed=1)
    with pytest.raises(
        CheckpointError, match=r"has 'model\.second\.weight', which the modules lack"
    ):
        load_weights(tmp_path / "weights.safetensors", tied)
    with pytest.raises(TypeError, match=r"expected modules by name, .* got a ModuleDict"):
        load_weights(tmp_path / "weights.safetensors", nn.ModuleDict(tied))


def test_weights_file_round_trip_into_another_precision(tmp_path):
    path = tmp_path / "weights.safetensors"
    modules, _ = build()
    save_weights(path, modules, {"dataset": "digits"})
    fresh, _ = build(seed=1)
    fresh["model"].double()
    assert load_weights(path, fresh) == {"dataset": "digits"}
    assert fresh["model"].turned.dtype == torch.float64
    assert torch.equal(fresh["model"].turned, modules["model"].turned.double())
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\xff" * 40])
def test_weights_file_that_is_none(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_weights(path, build()[0])


def test_averaged_weights_need_no_optimizer(saved, tmp_path):
    folder, modules, optimizer = saved
    fresh, _ = build(seed=1)
    load_averaged_weights(folder, fresh)
    assert not torch.equal(fresh["guide"].weight, modules["guide"].weight)
    with optimizer.averaged():
        assert_same(snapshot(fresh), snapshot(modules))
    plain = JointOptim(torch.optim.Adamax, {"lr": 0.1})
    plain.register(named_parameters(modules).items())
    train(modules, plain)
    save_checkpoint(tmp_path / "plain", modules, plain, {"step": 3}, GENERATOR)
    load_averaged_weights(tmp_path / "plain", fresh)
    assert_same(snapshot(fresh), snapshot(modules))
    damage_flipped(folder)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_averaged_weights(folder, fresh)
    assert_same(snapshot(fresh), snapshot(modules))


class Harmful:
    """Unpickling it would raise."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('code was run')",)


def test_no_code_in_a_checkpoint_is_run(saved):
    folder, _, _ = saved
    path = folder / "checkpoint.pt"
    torch.save({**torch.load(path), "optimizer": Harmful()}, path)
    fresh, optimizer = build(seed=1)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is truncated or altered"):
        load_checkpoint(folder, fresh, optimizer, GENERATOR)


def test_state_can_be_read_alone(saved):
    assert read_state(saved[0])["config"] == {"width": 3}


def test_random_state_survives_a_file():
    data = torch.Generator().manual_seed(5)
    np.random.normal(size=3)  # noqa: NPY002
    random.gauss(0, 1)
    file = io.BytesIO()
    torch.save(capture_random_state(data), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    def draw():
        return [
            *(random.gauss(0, 1) for _ in range(3)),
            *np.random.normal(size=3),  # noqa: NPY002
            *torch.randn(3).tolist(),
            *torch.rand(3, generator=data).tolist(),
        ]

    first = draw()
    assert draw() != first
    restore_random_state(state, data)
    assert draw() == first
