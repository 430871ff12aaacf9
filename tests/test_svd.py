"""LAPACK's SVD may not converge: QR iteration takes over, and if that fails too, the error says so.

No matrix is known that makes it fail, so LAPACK is replaced: SciPy hands its functions to okcore by address as okcore
is imported, and a process of its own hands over others.
"""

import subprocess
import sys

PROGRAM = """
import ctypes, sys
import numpy as np
from scipy.linalg import cython_lapack

python = ctypes.pythonapi
python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
python.PyCapsule_GetPointer.restype = ctypes.c_void_p
python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
python.PyCapsule_New.restype = ctypes.py_object
python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
kept, calls = [], []

def replace(name, n_arguments, fails):
    capsule = cython_lapack.__pyx_capi__[name]
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)
    signature = python.PyCapsule_GetName(capsule)
    original = kind(python.PyCapsule_GetPointer(capsule, signature))

    def function(*arguments):
        calls.append(name)
        if name == "dgesdd":  # what did not converge has overwritten its input
            n = ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_int))[0]
            ctypes.memset(arguments[3], 0, 8 * n * n)
        if fails:
            ctypes.cast(arguments[-1], ctypes.POINTER(ctypes.c_int))[0] = 1
        else:
            original(*arguments)

    wrapped = kind(function)
    kept.extend([wrapped, signature, original])
    address = ctypes.cast(wrapped, ctypes.c_void_p).value
    cython_lapack.__pyx_capi__[name] = python.PyCapsule_New(address, signature, None)

failing = sys.argv[1:]
if "dgesdd" in failing:
    replace("dgesdd", 14, True)
replace("dgesvd", 14, "dgesvd" in failing)

import okcore

rng = np.random.default_rng(0)
u, A = rng.normal(size=(6, 5)), rng.normal(size=(6, 4, 3))
cell = okcore.RNN(3, 8, dtype="float64", rng=0)
estimator = okcore.OK(cell, 2, 3, batch_size=2, rng=0)
try:
    for part in okcore.kron.reduce(u, A, 2, signs=np.ones(6)):
        print(part.round(9).tolist())
    for _ in range(4):
        estimator.step(np.ones((2, 3)))
    print(estimator.gradient(np.ones((2, 8))).round(9).tolist())
except np.linalg.LinAlgError as error:
    print("LinAlgError:", error)
    from tests.helpers import exported_kernel

    workspace = np.empty(exported_kernel("dkron_reduce_workspace")(6, 2), np.uint8)
    results = [np.ones((2, 5)), np.ones((2, 4, 3)), workspace, np.ones(1)]
    print("dkron_reduce:", exported_kernel("dkron_reduce")(6, 2, 5, 12, u, A, None, 0.5, *results))
    assert not any(results[i].any() for i in (0, 1, 3))
    try:
        for _ in range(4):
            estimator.step(np.ones((2, 3)))
    except np.linalg.LinAlgError as error:
        print("LinAlgError:", error)
    assert not estimator.carry.arrays["active"].any() and estimator.steps == 3
    estimator.clone()
print(sorted(set(calls)))
"""


def outcome(*failing):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *failing], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_qr_iteration_takes_over():
    *expected, called = outcome()
    assert called == "[]"
    *found, called = outcome("dgesdd")
    assert called == "['dgesdd', 'dgesvd']"
    assert found == expected  # up to the ninth decimal: the sign of a pair of vectors cancels


def test_if_both_fail_the_error_says_so():
    first, exported, second, called = outcome("dgesdd", "dgesvd")
    assert called == "['dgesdd', 'dgesvd']"
    assert first == "LinAlgError: reduce: LAPACK's SVD did not converge, gesdd and gesvd both"
    assert exported == "dkron_reduce: -2"
    assert "lanes 0, 1" in second or "lane 0" in second
    assert "step 3" in second and "was set to zero" in second and "did not converge" in second
