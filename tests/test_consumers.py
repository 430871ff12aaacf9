"""Packages that build on okcore, in Cython, C and C++, from ctypes, cffi and numba: against an installed wheel.

The wheel is built from a copy of the sources and installed in an environment of its own, and the packages in consumers/
are built there. That is kept in build/consumers until a source or a version changes.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONSUMERS = Path(__file__).parent / "consumers"
BUILT = ROOT / "build" / "consumers"
PACKAGES = ("from_cython", "from_c", "compiled_carry")
NEEDED = ("numpy", "scipy", "joblib", "threadpoolctl", "tqdm", "setuptools", "Cython")
OPTIONAL = ("numba", "cffi")
EVERYTHING = "reduce contract left_multiply jacobian_times_factor gemm gram api_version".split()

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")


def sources():
    """Return what the wheel is made of."""
    kinds = (".py", ".pyx", ".pxd", ".pyi", ".h", ".typed")
    files = [path for path in (ROOT / "okcore").rglob("*") if path.suffix in kinds]
    files += [ROOT / "okcore/_simd/simd.c"]
    return files + [ROOT / name for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")]


def state():
    """Return a digest of everything that what is built depends on."""
    digest = hashlib.sha256()
    for path in sorted([*sources(), *CONSUMERS.rglob("*.*"), Path(__file__)]):
        if "__pycache__" not in path.parts:
            digest.update(f"{path} {path.stat().st_size} ".encode() + path.read_bytes())
    versions = [sys.version, sys.prefix, *(importlib.metadata.version(name) for name in NEEDED), *available()]
    options = sorted(item for item in os.environ.items() if item[0].startswith(("OKCORE_", "CC", "CFLAGS")))
    digest.update(f"{versions} {options}".encode())
    return digest.hexdigest()


def available():
    return [name for name in OPTIONAL if importlib.util.find_spec(name) is not None]


def run(*command, **variables):
    """Run a command away from the sources; return the lines it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", **variables}
    done = subprocess.run(
        [str(word) for word in command], cwd=BUILT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def build():
    """Build the wheel and everything that rests on it."""
    shutil.rmtree(BUILT, ignore_errors=True)
    copy, pip = BUILT / "okcore", (sys.executable, "-m", "pip", "--disable-pip-version-check")
    # Compiling takes minutes. So the modules that the tests run with are put where setuptools looks for those of an
    # earlier build, and it makes again what is older than its sources.
    modules = [*(ROOT / "okcore").rglob("*" + sysconfig.get_config_var("EXT_SUFFIX"))]
    generated = [*(ROOT / "okcore").rglob("*.c"), *(ROOT / "okcore").glob("*.pxi")]
    for path in (*sources(), *generated, *modules):
        place = copy / ("modules" if path in modules else "") / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    (copy / "setup.cfg").write_text("[build]\nbuild_lib = modules\n")
    run(*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", BUILT, copy)

    run(sys.executable, "-m", "venv", "--without-pip", BUILT / "env")
    pip = (*pip, "--python", BUILT / "env/bin/python", "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, *BUILT.glob("*.whl"))
    # What okcore needs comes from here; a path in a .pth file brings no editable okcore with it.
    folders = {Path(importlib.util.find_spec(name).origin).parent.parent for name in (*NEEDED, *available())}
    (installed,) = BUILT.glob("env/lib/python*/site-packages")
    (installed / "needed.pth").write_text("".join(f"{folder}\n" for folder in folders))
    for name in PACKAGES:
        shutil.copytree(CONSUMERS / name, BUILT / name)
    run(*pip, "--no-build-isolation", *(BUILT / name for name in PACKAGES), CFLAGS="-O0")  # that compiles faster


@pytest.fixture(scope="session")
def python():
    """Return the interpreter of the environment where the wheel and the packages are installed."""
    stamp, wanted = BUILT / "state", state()
    BUILT.parent.mkdir(exist_ok=True)
    with open(BUILT.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed: other sessions wait
        if not stamp.exists() or stamp.read_text() != wanted:
            build()
            stamp.write_text(wanted)
    return BUILT / "env/bin/python"


def check(python, module, *functions):
    """Let check.py compare a consumer's results with okcore's, and see that both are installed there."""
    package, consumer, *checked = run(python, CONSUMERS / "check.py", module)
    environment = BUILT / "env"
    assert environment in Path(package).parents and checked == list(functions)
    assert environment in Path(consumer).parents or Path(consumer).parent == CONSUMERS


def test_cython(python):
    check(python, "from_cython", *EVERYTHING)


def test_c(python):
    check(python, "from_c", "reduce", "contract")


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_cpp(python):
    check(python, "from_cpp", "reduce", "contract")


def test_ctypes(python):
    check(python, "from_ctypes", "contract")


@pytest.mark.parametrize("module", OPTIONAL)
def test_optional(python, module):
    pytest.importorskip(module)
    check(python, f"from_{module}", "contract")


def test_nothing_needs_a_compiler(python):
    alone = {"PATH": str(python.parent)}
    assert all(shutil.which(name, path=alone["PATH"]) is None for name in ("cc", "gcc", "clang", "ld"))
    said = run(python.parent / "okcore", "train", "copy", "--steps", 50, "--hidden", 8, "--out", "trained", **alone)
    assert any(line.startswith("After 50 steps") for line in said), said
    run(python, CONSUMERS / "check.py", "from_cython", **alone)


CARRY = """
import numpy as np
import okcore
from compiled_carry import DenseRTRL

def gradients(make, dtype):
    cell = okcore.LSTM(3, 6, dtype=dtype, rng=0)
    estimator, rng, found = make(cell), np.random.default_rng(0), []
    for t in range(20):
        estimator.step(rng.normal(size=(3, 3)).astype(dtype), reset=np.array([t % 7 == 3, False, t % 5 == 4]))
        found.append(estimator.gradient(rng.normal(size=(3, 6)).astype(dtype)))
    return np.array(found)

for block in (1, 4):
    okcore.testing.check_estimator(lambda cell, batch_size, rng: DenseRTRL(cell, block, batch_size), expect="exact")
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-13)):
        one, two = (gradients(lambda cell: DenseRTRL(cell, block, 3, threads), dtype) for threads in (1, 2))
        assert one.tobytes() == two.tobytes()
        exact = gradients(lambda cell: okcore.RTRL(cell, block, 3), dtype)
        np.testing.assert_allclose(one, exact, rtol=0, atol=tolerance * np.abs(exact).max())
cell = okcore.RNN(2, 3, dtype="float64", rng=0)
cell.theta[:] = 0
cell.theta[:, 2:5] = 1e200 * np.eye(3)
try:
    estimator = DenseRTRL(cell, batch_size=2)
    for _ in range(5):
        estimator.step(np.zeros((2, 2)))
except FloatingPointError as error:
    print(error)
"""


def test_a_compiled_carry(python):
    (message,) = run(python, "-c", CARRY)
    assert "influence of lanes 0, 1" in message


def test_the_wheel_holds_declarations_and_the_header(python):
    (wheel,) = BUILT.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    declarations = {str(path.relative_to(ROOT)) for path in (ROOT / "okcore").rglob("*.pxd")}
    assert declarations | {"okcore/cython_kernels_api.h"} <= set(names)
    (folder,) = run(python, "-c", "import okcore; print(okcore.get_include())")
    assert BUILT / "env" in Path(folder).parents and "cython_kernels_api.h" in os.listdir(folder)
