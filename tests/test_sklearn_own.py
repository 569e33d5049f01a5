"""scikit-learn's own tests of its perceptrons, those of the installed version, with ours in their place."""

from __future__ import annotations

import importlib.util
from typing import Any
from unittest import mock

import pytest

sklearn = pytest.importorskip("sklearn")

import fastbp.sklearn  # noqa: E402
from fastbp.sklearn import differences  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # as they are run by scikit-learn


def own_tests(name: str) -> dict[str, Any]:
    """The tests of a module of scikit-learn's, which imports our classes in place of its own."""
    spec = importlib.util.find_spec(f"sklearn.neural_network.tests.{name}")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    classes = {n: getattr(fastbp.sklearn, n) for n in ("MLPClassifier", "MLPRegressor")}
    with mock.patch.multiple("sklearn.neural_network", **classes):
        spec.loader.exec_module(module)
    return {n: test for n, test in vars(module).items() if n.startswith("test_")}


@pytest.fixture
def global_random_seed() -> int:
    return 42


for name, test in own_tests("test_mlp").items():
    if name in differences.OWN_TESTS:
        test = pytest.mark.xfail(strict=True, reason=differences.OWN_TESTS[name])(test)
    globals()[name] = test
