"""What the documentation shows runs, and what it links to exists."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import okcore
from okcore.runs import command_line

ROOT = Path(__file__).parent.parent
MODULES = [module.name for module in pkgutil.walk_packages(okcore.__path__, "okcore.")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    if name == "okcore.torch":
        pytest.importorskip("torch")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme_example(capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) < 0.1  # it learned what is to be predicted


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
        assert (path.parent / target.replace("\\", "")).exists(), target
    for target in re.findall(r"`((?:okcore|docs|examples|tests)/[\w./]+)`", prose):
        assert (ROOT / target).exists(), target


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text))
    assert len(named) > 40
    for file, name in named:
        tests = (ROOT / "tests" / file).read_text()
        assert name == "" or f"\ndef {name}(" in tests, f"{file}::{name}"
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith(("| promise", "|---"))]
    for row in rows:
        assert "`test_" in row.rpartition(" | ")[2], row


@pytest.mark.parametrize("name", okcore.__all__)
def test_public_names_are_documented(name):
    thing = getattr(okcore, name)
    assert thing.__doc__
    assert not re.search(r"^\s*{\w+}$", thing.__doc__, re.MULTILINE)  # a place that was to be filled in
    if inspect.isclass(thing) and "Parameters" in thing.__doc__ and inspect.isfunction(vars(thing).get("__init__")):
        for argument in inspect.signature(thing).parameters:
            assert re.search(rf"\b{argument}\b", thing.__doc__), argument


def test_the_code_of_pytorch_runs():
    pytest.importorskip("torch")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pytorch.md").read_text(), re.DOTALL):
        exec(compile(code, "docs/pytorch.md", "exec"), names)
    assert names["losses"][-1] < 0.1 < names["losses"][0]  # it learned what is to be predicted


def test_the_classes_of_extending_run():
    text = (ROOT / "docs" / "extending.md").read_text()
    names = {"okcore": okcore, "np": np}
    blocks = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "_validation" not in code]
    for code in blocks:
        if code.startswith("class"):
            exec(compile(code, "docs/extending.md", "exec"), names)
    exec(compile(blocks[0], "docs/extending.md", "exec"), names)  # the two checks
    okcore.testing.check_estimator(
        lambda cell, batch_size, rng: names["DenseRTRL"](cell, 3, batch_size), expect="exact"
    )


def test_the_code_for_other_packages_is_that_of_the_consumers():
    # which test_consumers.py builds and runs
    kinds = (".py", ".pyx", ".c")
    consumers = "".join(
        path.read_text() for path in (ROOT / "tests" / "consumers").rglob("*") if path.suffix in kinds
    )
    pages = [(ROOT / "docs" / name).read_text() for name in ("c-api.md", "extending.md")]
    pages[1] = pages[1].partition("### In a package of your own")[2]
    blocks = [code for page in pages for code in re.findall(r"```\w+\n(.*?)```", page, re.DOTALL)]
    assert len(blocks) == 9
    for code in blocks:
        assert code in consumers, code


@pytest.mark.slow
def test_the_tour_can_be_walked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, code in re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "docs" / "tour.md").read_text(), re.DOTALL):
        if language == "python":
            exec(compile(code, "docs/tour.md", "exec"), names)
        else:
            words = code.split()
            assert words[0] == "okcore" and command_line.main(words[1:]) == 0
    assert (tmp_path / "curves.svg").exists()
    said = capsys.readouterr().out.splitlines()
    at_first, at_last = (float(word) for word in said[-1].split() if word[0].isdigit())
    assert at_last < at_first / 2
    lengths = dict(line.split() for line in said if line.startswith(("ok ", "tbptt ")))
    assert min(float(length) for length in lengths.values()) > 1 and len(lengths) == 2
