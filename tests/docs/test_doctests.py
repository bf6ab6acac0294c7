"""The examples of public docstrings do what they show, with nothing but what they import."""

from __future__ import annotations

import doctest
from importlib import import_module
from importlib.util import find_spec

import pytest
from public import functions_and_classes

FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples(name, found):
    return [test for test in FINDER.find(found, name, globs={}) if test.examples]


EXAMPLES = [test for name, found in functions_and_classes() for test in examples(f"fastnw.{name}", found)]


def run(test):
    report = []
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_examples(test):
    run(test)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_examples_of_frameworks(framework):
    if not find_spec(framework):
        pytest.skip(f"{framework} is not installed")
    found = examples(f"fastnw.{framework}.pool", import_module(f"fastnw.{framework}").pool)
    assert found
    for test in found:
        run(test)


def test_functions_and_estimators_have_examples():
    shown = {test.name.removeprefix("fastnw.") for test in EXAMPLES}
    assert shown >= {
        "pool",
        "density",
        "attention_weights",
        "plan",
        "relative_representation",
        "select_bandwidth",
        "learn_bandwidth",
        "Abramson",
        "NearestNeighbours",
        "Kernel",
        "NadarayaWatsonRegressor",
        "NadarayaWatsonClassifier",
        "KernelDensity",
        "bandwidth.rule_bandwidth",
        "d2l.nadaraya_watson",
    }
