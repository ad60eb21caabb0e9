"""Options: the fields of recipes that the command line sets."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

DATA = "dataset_description"  # beside the recipe, in checkpoints and results.json
BUDGET = ("epochs", "max_minutes", "max_steps")


class ConfigError(ValueError):
    """Options that contradict each other or the run to be resumed."""


def option(default: Any, text: str | None = None, **metadata: Any) -> Any:
    """A field of a recipe that can be set from the command line.

    Args:
        default: its value in the ``quick`` preset.
        text: help for the option; if None, the field is validated but is not an option.
        **metadata: ``choices`` and ``metavar``, as for `argparse`; ``or_zero=True`` if a number may
            be 0; ``inherited=False`` if fine-tuning does not take it from the run that it starts
            from, although only this family has it.
    """
    return field(default=default, metadata={"help": text, **metadata})


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None; if any is a budget, the other budgets become None."""
    given = {name: value for name, value in options.items() if value is not None}
    return (dict.fromkeys(BUDGET) if given.keys() & set(BUDGET) else {}) | given
