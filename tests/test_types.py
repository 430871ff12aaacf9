"""Types: what mypy says of users' programs and of okcore; stubs, signatures and completion show the same."""

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import okcore
from okcore import _kernels
from tests import typed_user

pytest.importorskip("mypy")

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "pyproject.toml"
STUBS = {  # by module
    ".".join(["okcore", *path.relative_to(okcore.__path__[0]).with_suffix("").parts]): path
    for path in sorted(Path(okcore.__path__[0]).rglob("*.pyi"))
}

# What Cython adds to every module and class, for itself
OF_CYTHON = r"""
.*\.__(reduce|setstate)_cython__
.*\.__test__
.*\.__pyx_capi__
"""


def mypy(module, *arguments, folder=ROOT):
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_users_program_and_mistakes(tmp_path):
    names = "typed_user.py", "typed_mistakes.py"
    for name in names:
        shutil.copy(ROOT / "tests" / name, tmp_path)  # away from the sources: the package is found as any other
    said = mypy("mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *names, folder=tmp_path)
    assert "no issues found in 2 source files" in said


def test_the_users_program_runs(tmp_path):
    typed_user.main(tmp_path)


# What is annotated is annotated with the names of today's NumPy and Cython; users of older ones are tested above
@pytest.mark.skipif(tuple(map(int, np.__version__.split(".")[:2])) < (2, 4), reason="NumPy's older annotations")
def test_okcore_itself():
    assert "no issues found" in mypy("mypy", "--config-file", str(CONFIG))


@pytest.mark.skipif("signatures" in inspect.signature(_kernels.multiply).parameters, reason="Cython before 3.2")
def test_stubs_agree_with_what_is_compiled(tmp_path):
    allowed = tmp_path / "allowed"
    allowed.write_text(OF_CYTHON)
    options = ["--mypy-config-file", str(CONFIG), "--allowlist", str(allowed), "--ignore-disjoint-bases"]
    assert f"no issues found in {len(STUBS)} modules" in mypy("mypy.stubtest", *options, *STUBS)


def test_every_compiled_module_has_a_stub_if_it_has_anything_for_python():
    for path in (ROOT / "okcore").rglob("*.pyx"):
        if re.search(r"^(def|cdef class) ", path.read_text(), re.MULTILINE):
            assert path.with_suffix(".pyi").exists(), path


@pytest.mark.parametrize("name", ["okcore._carries.base", "okcore._engine.engine"])
def test_help_on_what_is_compiled_shows_the_types_of_the_stub(name):
    (cls,) = (node for node in ast.parse(STUBS[name].read_text()).body if isinstance(node, ast.ClassDef))
    compiled = getattr(importlib.import_module(name), cls.name)
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef) and not node.decorator_list]
    for method in methods:
        arguments = method.args.args[1:]
        if method.name == "__init__" and cls.name == "Carry":  # types of constructors cannot be had
            assert list(inspect.signature(compiled).parameters) == [argument.arg for argument in arguments]
        if not method.name.startswith("_"):
            types = {argument.arg: ast.unparse(argument.annotation) for argument in arguments}
            expected = types | {"return": ast.unparse(method.returns)}
            assert getattr(compiled, method.name).__annotations__ == expected, method.name


def public():
    """Yield (name, thing) for everything public that can be called, methods too."""
    modules = okcore, okcore.kron, okcore.reference, okcore.tasks, okcore.testing
    for module in modules:
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith("okcore"):
                continue
            yield f"{module.__name__}.{name}", thing
            for method in dir(thing) if inspect.isclass(thing) else ():
                if not method.startswith("_") and callable(getattr(thing, method)):
                    if not inspect.isclass(getattr(thing, method)):  # such as a task's readout
                        yield f"{module.__name__}.{name}.{method}", getattr(thing, method)


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_signatures_are_complete(name, thing):
    signature = inspect.signature(thing)
    documented = inspect.getdoc(thing) or ""
    assert not re.match(r"[\w.]+\(", documented)  # the signature is not in the docstring too
    if name == "okcore.Carry":
        return
    for argument in signature.parameters.values():
        assert argument.name == "self" or argument.annotation is not inspect.Parameter.empty, argument
    assert inspect.isclass(thing) or signature.return_annotation is not inspect.Signature.empty


def test_completion_shows_public_names_only():
    assert {name for name in dir(okcore) if not name.startswith("_")} == set(okcore.__all__)
    assert dir(okcore.kron) == sorted(okcore.kron.__all__) and dir(okcore.testing) == sorted(okcore.testing.__all__)
    assert all(hasattr(okcore, name) for name in dir(okcore))
