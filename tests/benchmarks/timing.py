"""Interleaved timing and a table of medians and ratios, for the benchmark scripts."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, warm_up: int = 2
) -> dict[str, list[float]]:
    """Milliseconds of each call, timed in turn, so that a slow spell of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(warm_up + repeats):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if repeat >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def print_table(title: str, times: Mapping[str, list[float]]) -> None:
    """Medians, quartiles, and how many times the first row's median each row's is."""
    print(f"{title}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':32} {'median ms':>10} {'quartiles':>19} {'ratio':>7} {'1/ratio':>8}")
    baseline = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(
            f"{name:32} {median:10.1f} {low:9.1f} {high:9.1f} {median / baseline:7.3f} "
            f"{baseline / median:8.1f}"
        )


def synchronize(device: torch.device) -> None:
    """Wait for the work that was given to a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
