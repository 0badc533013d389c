"""What a contestant's work costs, imports left out: CPU seconds of this process with its threads and children."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def cpu_seconds() -> float:
    """User and system time so far."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_rss_mib() -> float:
    """Most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(
    work: Callable[[], Any],
    tell: Callable[[Any], dict[str, Any]] = lambda _: {},
    *,
    times: int = 1,
) -> None:
    """Do the work and print one line of JSON: its cost, and what `tell` says of its result.

    Only the work is on the clock; its cost is the mean of `times`. `grown_rss_mib` is the peak memory
    over what the process held before the work.
    """
    base_rss_mib = peak_rss_mib()
    start, used = time.perf_counter(), cpu_seconds()
    for _ in range(times):
        result = work()
    used, wall = cpu_seconds() - used, time.perf_counter() - start
    said = {
        "work_cpu_seconds": used / times,
        "work_wall_seconds": wall / times,
        "grown_rss_mib": peak_rss_mib() - base_rss_mib,
        "found": tell(result),
    }
    sys.stdout.write(json.dumps(said) + "\n")


def timed_iterations(
    work: Callable[[int], tuple[Any, int]], tell: Callable[[Any], dict[str, Any]], iterations: int
) -> None:
    """As `timed`, an iteration: once all in, and once what further iterations cost when the first are done.

    The second is the difference of two runs, one of them twice as long; it leaves out what is done once. The work
    gives its result and how many iterations it really did.
    """
    start, used = time.perf_counter(), cpu_seconds()
    result, done = work(iterations)
    first, wall = cpu_seconds() - used, time.perf_counter() - start
    used = cpu_seconds()
    _, done_in_all = work(2 * iterations)
    further = cpu_seconds() - used - first
    said = {
        "work_cpu_seconds": first / max(1, done),
        "work_wall_seconds": wall / max(1, done),
        "further_cpu_seconds": further / max(1, done_in_all - done),
        "found": {"iterations": done, **tell(result)},
    }
    sys.stdout.write(json.dumps(said) + "\n")
