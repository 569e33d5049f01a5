"""A pytest plugin for tests of a fault: on the engines that it is in alone, and no test for long."""

import os
import signal

SKIPPED = set(os.environ["FASTBP_MUTANT_SKIPS"].split())  # the names of the other engines
SECONDS = 240  # of processor time; beyond it the signal ends this process, even in a loop in C


def pytest_collection_modifyitems(config, items):
    def on_another(item) -> bool:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        return any(isinstance(value, str) and value in SKIPPED for value in parameters)

    config.hook.pytest_deselected(items=[item for item in items if on_another(item)])
    items[:] = [item for item in items if not on_another(item)]


def pytest_runtest_setup(item):
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
