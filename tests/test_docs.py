"""What the documentation shows runs, and what it links to exists."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import okcore

ROOT = Path(__file__).parent.parent
MODULES = [module.name for module in pkgutil.walk_packages(okcore.__path__, "okcore.")]
MODULES.remove("okcore.__main__")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme_example(capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert 18 <= len(code.strip().splitlines()) <= 24
    exec(compile(code, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) < 0.1  # it learned what is to be predicted


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"`((?:okcore|docs|examples|tests)/[\w./]+)`", path.read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", okcore.__all__)
def test_public_names_are_documented(name):
    thing = getattr(okcore, name)
    assert thing.__doc__ and len(thing.__doc__.splitlines()[0]) > 20, name
    if isinstance(thing, type) and issubclass(thing, okcore.Estimator):
        for part in ("Parameters", "Notes", "References") if thing is not okcore.Estimator else ("Parameters",):
            assert part in thing.__doc__, (name, part)
        assert "{shared}" not in thing.__doc__
