"""What the tests share: tolerances by dtype, small random problems, and the same estimator in plain NumPy."""

import ctypes
import functools
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

import okcore
from okcore import _kernels, cython_kernels, reference
from okcore.runs import checkpoint

# Relative to the largest entry; sums of a few thousand terms.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}

# Of the hand-written kernels: those that this processor has, the narrowest first and the one in use last
INSTRUCTION_SETS = _kernels.instruction_sets()
INSTRUCTION_SETS = INSTRUCTION_SETS[: INSTRUCTION_SETS.index(_kernels.instructions()) + 1]


def make_cell(name, n_in=3, n_hidden=5, dtype="float64", seed=1, gain=1.0):
    """Return a cell with weights of order `gain`: with 1.5 its memory is long and its gradients are large."""
    cell = getattr(okcore, name)(n_in, n_hidden, dtype=dtype, rng=seed)
    cell.theta *= cell.dtype.type(gain)
    return cell


def stream(cell, steps, batch_size, seed=2, symbols=False, reset_rate=0.0):
    """Yield (x, dh, reset) for every step."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.normal(size=(batch_size, cell.n_in)).astype(cell.dtype)
        if symbols:
            x = rng.integers(cell.n_in, size=batch_size)
        dh = rng.normal(size=(batch_size, cell.n_hidden)).astype(cell.dtype)
        yield x, dh, rng.random(batch_size) < reset_rate


def gradients(estimator, steps, learning_rate=0.0, **options):
    """Return the gradient at every step, theta updated in place between them."""
    cell, out = estimator.cell, []
    start = cell.theta.copy()
    for x, dh, reset in stream(cell, steps, estimator_lanes(estimator), **options):
        estimator.step(x, reset)
        out.append(estimator.gradient(dh))
        cell.theta -= cell.dtype.type(learning_rate) * out[-1]
    cell.theta = start
    return np.array(out)


def estimator_lanes(estimator):
    """Return the batch size of an estimator of okcore or of its reference."""
    return getattr(estimator, "batch_size", None) or len(estimator.state)


def assert_close(actual, expected, dtype, factor=1.0):
    """Compare with the tolerance of the dtype, relative to the largest expected entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(initial=0), np.finfo(dtype).tiny)
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0) / scale
    assert error < factor * TOLERANCE[str(np.dtype(dtype))], f"relative error {error:.2e}"


def in_reference(name):
    """Say whether `okcore.reference` has the cell or estimator of this name too."""
    return hasattr(reference, name)


def reference_of(estimator, cell, rng):
    """Return the reference's estimator with the arguments of a compiled one."""
    make = getattr(reference, type(estimator).__name__)
    names = inspect.signature(make).parameters
    arguments = {name: getattr(estimator, name) for name in names if name not in ("cell", "rng")}
    return make(cell, **arguments, **({"rng": rng} if "rng" in names else {}))


def assert_same_state(state, before):
    """Compare two flat states to the last bit, dtypes too."""
    assert state.keys() == before.keys()
    for name, value in before.items():
        assert np.array_equal(state[name], value), name
        assert np.asarray(state[name]).dtype == np.asarray(value).dtype, name


def flat_state(trainer):
    """Return the state of a trainer without its groups."""
    return checkpoint.flatten(trainer.state_dict())


def other(array):
    """Return the array in the other dtype of floats."""
    return array.astype({"float32": "float64", "float64": "float32"}[array.dtype.name])


def spoil(array, value):
    """Return the array with another last entry."""
    array = array.copy()
    array.flat[-1] = value
    return array


def signature_of(name):
    """Return the C signature of a function that okcore.cython_kernels exports: the name of its capsule."""
    capsule_name = ctypes.pythonapi.PyCapsule_GetName
    capsule_name.restype, capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return capsule_name(cython_kernels.__pyx_capi__[name]).decode()


@functools.cache
def exported_kernel(name):
    """Return a function that okcore.cython_kernels exports, through ctypes; arrays stand for their addresses."""
    types = {"int": ctypes.c_int, "Py_ssize_t": ctypes.c_ssize_t, "float": ctypes.c_float, "double": ctypes.c_double}
    types |= {"void": None}
    signature = signature_of(name)
    result, arguments = re.fullmatch(r"(\w+) \((.*)\)", signature).groups()
    arguments = [] if arguments == "void" else arguments.split(", ")
    kind = ctypes.CFUNCTYPE(types[result], *(types.get(argument, ctypes.c_void_p) for argument in arguments))
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    function = kind(pointer(cython_kernels.__pyx_capi__[name], signature.encode()))

    def call(*arguments):
        return function(*(value.ctypes.data if isinstance(value, np.ndarray) else value for value in arguments))

    return call


def compile_library(source, folder, *options):
    """Compile a C file with the interpreter's compiler, or cc; return the shared library."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(compiler[0]):
        compiler = ["cc"]
    library = folder / source.with_suffix(".so").name
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", library, source, *options], check=True)
    return library


def run_again_with(instructions, path):
    """Run a file of tests in a process of its own whose kernels are held to an instruction set."""
    if "OKCORE_INSTRUCTIONS" in os.environ:
        pytest.skip("is one of these runs")
    environment = os.environ | {"OKCORE_INSTRUCTIONS": instructions}
    command = [sys.executable, "-m", "pytest", "-q", "-x", path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
