"""Parts of command lines: options made from the fields of a recipe, exit statuses."""

import argparse
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import torch

from pyro_vlae._version import __version__
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.recipes import Recipe
from pyro_vlae.experiments.run import RunInterrupted, program
from pyro_vlae.infer.distributed import rank, world_size
from pyro_vlae.training import TrainingInterrupted, keep_freed_memory
from pyro_vlae.training.distributed import torchrun_ranks


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every command and script has.

    ``%(prog)s`` in the description is how it was called, e.g. ``pyro-vlae train``.

    Options cannot be abbreviated: `exit_status` looks for ``--debug`` before any parser has run.
    """
    parser = argparse.ArgumentParser(
        prog=program(),
        description=description,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyro_vlae {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data folder and the device."""
    add_data_dir_option(parser)
    add_device_option(parser)


def add_data_dir_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the data folder."""
    text = "default: $PYRO_VLAE_DATA, then the user cache"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=text)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the device."""
    text = "cpu, cuda, cuda:1, ...; default: cuda if any"
    parser.add_argument("--device", metavar="NAME", help=text)


def add_recipe_options(
    parser: argparse.ArgumentParser, kind: type[Recipe], names: Collection[str] | None = None
) -> None:
    """Add an option, by default None, for each field of a recipe that has a help text.

    Args:
        parser: the parser to add them to.
        kind: the recipe class.
        names: the fields to include; all if None.
    """
    known, base = kind.options(), {f.name for f in fields(Recipe)} - {"dataset"}
    for f in sorted(fields(kind), key=lambda f: f.name in base):  # the family's own fields first
        metadata = known.get(f.name, {})
        if not metadata.get("help") or (names is not None and f.name not in names):
            continue
        rest: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if f.type is not bool:
            number = next((k for k in (int, float) if k in (f.type, *get_args(f.type))), None)
            rest = {key: metadata[key] for key in ("choices", "metavar") if key in metadata}
            if f.name == "seed":
                rest["type"] = seed
            elif number:
                rest["type"] = positive(number, or_zero=metadata.get("or_zero", False))
        text = metadata["help"] + _default_text(kind, f.name)
        parser.add_argument("--" + f.name.replace("_", "-"), help=text, **rest)


def _default_text(kind: type[Recipe], name: str) -> str:
    """The default of an option for its help text, by preset if they differ."""
    default = getattr(kind, name)
    values = {preset: given.get(name, default) for preset, given in kind.presets.items()}
    if isinstance(default, bool):
        return ""
    if len(set(values.values())) == 1:
        return "" if default is None else f"; default: {default}"
    return "; " + ", ".join(f"{p}: {value}" for p, value in values.items() if value is not None)


def recipe_options(options: argparse.Namespace, kind: type[Recipe]) -> dict[str, Any]:
    """The parsed value of each field of a recipe, None if it was not given."""
    return {f.name: getattr(options, f.name, None) for f in fields(kind)}


def positive(kind: type, or_zero: bool = False) -> Callable[[str], float]:
    """An argparse type: positive, finite numbers of this kind, or zero if it is allowed."""

    def convert(text: str) -> float:
        value = kind(text)
        if not (0 < value < math.inf or (or_zero and value == 0)):
            raise argparse.ArgumentTypeError(
                f"must be positive{' or 0' * or_zero} and finite, got {text}"
            )
        return value

    convert.__name__ = kind.__name__
    return convert


def folder(text: str) -> Path:
    """An argparse type: the name of a folder."""
    if not text:
        raise argparse.ArgumentTypeError("must name a folder, got an empty string")
    return Path(text)


def make_folder(path: Path) -> None:
    """Make a folder to write to, before anything is computed.

    Raises:
        ConfigError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {path} ({error.strerror or error}): choose another one"
        ) from error
    if not os.access(path, os.W_OK):
        raise ConfigError(f"cannot write to {path} (permission denied): choose another folder")


def seed(text: str) -> int:
    """An argparse type: seeds that all random generators accept."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in 0..2^32 - 1, got {text}")
    return value


def pick_device(name: str | None) -> torch.device:
    """The device with this name; by default, the GPU if there is one, else the CPU.

    Several ranks on a machine take one GPU each.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if world_size() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"--device {name} names one GPU for all ranks: use --device cuda")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        zero = torch.zeros(1, device=device)
        zero.item()  # fails on devices that hold no values, such as meta
    except Exception as error:  # of many kinds, by device
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"--device {name} cannot be used ({reason}); try --device cpu") from error
    return zero.device  # with an index


class _Terminated(KeyboardInterrupt):
    """SIGTERM outside of the training steps."""

    status = 143


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the saving of scores
    raise _Terminated


def exit_status(main: Callable[[], int], resume: str = "") -> int:
    """Run a script's main; report errors that the user can fix without a traceback.

    With ``--debug``, the traceback precedes the message. Under `torchrun`, the ranks work together.
    Memory of freed tensors is kept for new ones (`keep_freed_memory`). SIGTERM acts like Ctrl-C,
    with the status 143 instead of 130.

    Args:
        main: returns the exit status.
        resume: the options that continue an interrupted run, with ``{out}`` for its folder.
    """
    keep_freed_memory()
    main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _terminate) if main_thread else None
    try:
        with torchrun_ranks():
            return main()
    except TrainingInterrupted as interrupted:
        out = interrupted.checkpoint and interrupted.checkpoint.parent
        if rank() == 0:
            print(f"\n{interrupted}; to continue, use {resume.format(out=out)}", file=sys.stderr)
        return interrupted.exit_code
    except RunInterrupted as interrupted:
        if rank() == 0:
            way_on = resume.format(out=interrupted.folder)
            print(f"\n{interrupted}; to continue, use {way_on}", file=sys.stderr)
        return _Terminated.status if isinstance(interrupted.__cause__, _Terminated) else 130
    except KeyboardInterrupt as interrupted:
        print("\ninterrupted", file=sys.stderr)
        return _Terminated.status if isinstance(interrupted, _Terminated) else 130
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
