# ruff: noqa: INP001, T201 - a program of its own, which prints
"""Forks again and again while a thread records; no child that collects may find a lock that is locked."""

import faulthandler
import os
import threading
import warnings

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_connleak.otel.histograms import Histograms
from tests.leaking import lose
from tests.support.core import Core

FORKS = 40


def main() -> None:
    """Print how many children could collect."""
    warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is what is tested
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histograms = Histograms(provider.get_meter("otel_connleak"), print)
    histograms.start()
    hold = lose(Core().pool)
    hold.released = hold.acquired
    stop = threading.Event()

    def record() -> None:
        while not stop.is_set():
            for _ in range(20):
                histograms.ended(hold)
            histograms.record()

    thread = threading.Thread(target=record)
    thread.start()
    well = 0
    for _ in range(FORKS):
        pid = os.fork()
        if pid == 0:
            faulthandler.dump_traceback_later(5, exit=True)
            histograms.clear()
            histograms.ended(hold)
            reader.get_metrics_data()
            os._exit(0)
        well += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    stop.set()
    thread.join()
    print(f"{well} of {FORKS}")


if __name__ == "__main__":
    main()
