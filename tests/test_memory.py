"""After warm-up a step with out= allocates nothing, in Python or in C, and many steps grow by nothing.

Everything is measured in children of the test process, where nobody else allocates: this module, run as a
script, calls one of the functions under "in the child" and prints what it returns.

BLAS is not ours, and OpenBLAS does allocate: a table of jobs for a product that it splits up over threads (it
runs on one here, as it should beside lanes on threads), and a buffer in some AVX-512 kernels for small
products, which gesdd uses as well.  So its own calls count only when it is made to use its AVX2 kernels.
"""

import ctypes
import functools
import gc
import itertools
import json
import os
import platform
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from okcore import kron
from tests.conftest import CELLS, EVERY_ESTIMATOR, maker
from tests.helpers import compile_library, exported_kernel

HERE = Path(__file__).parent
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counts calls of glibc")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")

ALGORITHMS = EVERY_ESTIMATOR | {"ok-long-blocks": maker("ok", rank=2, block=16)}
N_IN = 5


# ---- in the child ------------------------------------------------------------------------------------------


class Nothing:
    """Does nothing in place of an estimator: what is left is what the loop itself costs."""

    def step(self, x, reset=None, out=None):
        return out

    def gradient(self, dh, out=None):
        return out

    def late_gradient(self, dh, out=None):
        return out

    def accumulate(self, dh):
        pass

    def flush(self, out=None):
        return out


class Leak(Nothing):
    """Keeps 16 bytes a step from Python and 16 from malloc."""

    def __init__(self):
        self.kept = []
        self.malloc = ctypes.CDLL(None).malloc

    def step(self, x, reset=None, out=None):
        self.kept.append(object())
        self.malloc(16)
        return out


class Job:
    """An estimator, and all that its steps need, made once."""

    def __init__(
        self, algorithm, cell, dtype, n_hidden, batch_size, n_threads=1, symbols=False, resets=False
    ):
        rng = np.random.default_rng(0)
        self.cell = CELLS[cell](N_IN, n_hidden, dtype=dtype, rng=0)
        self.estimator = ALGORITHMS[algorithm](self.cell, batch_size=batch_size, n_threads=n_threads)
        if symbols:
            self.xs = list(rng.integers(N_IN, size=(8, batch_size)))
        else:
            self.xs = list(rng.standard_normal((8, batch_size, N_IN)).astype(dtype))
        self.masks = [None]
        if resets:  # 38 is prime to all blocks and horizons: some lanes and all, at any place of a block
            self.masks = [*(rng.random((36, batch_size)) < 0.05), np.ones(batch_size, bool), None]
        self.dh = rng.standard_normal((batch_size, n_hidden)).astype(dtype)
        self.h = np.zeros_like(self.dh)
        self.g = np.zeros_like(self.cell.theta)
        self.rate = np.asarray(1e-6, dtype)

    def steps(self, count, estimator=None):
        estimator = self.estimator if estimator is None else estimator
        for t in range(count):
            estimator.step(self.xs[t % len(self.xs)], reset=self.masks[t % len(self.masks)], out=self.h)
            estimator.gradient(self.dh, out=self.g)
            self.descend()
            if t % 11 < 4:
                estimator.late_gradient(self.dh, out=self.g)
            estimator.accumulate(self.dh)
            if t % 5 == 2:
                estimator.flush(out=self.g)
                self.descend()

    def descend(self):
        np.multiply(self.g, self.rate, out=self.g)
        np.subtract(self.cell.theta, self.g, out=self.cell.theta)


@functools.cache
def counter():
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    return shim.count_start, shim.count_stop


def count(function, *arguments, backtraces=0):
    """Count what a call allocates, OpenBLAS's own part apart; the first few places go to stderr."""
    start, stop = counter()
    backtraces, result = ctypes.c_long(backtraces), (ctypes.c_long * 2)()
    start(backtraces)
    function(*arguments)
    stop(result)
    return list(result)


def allocations(algorithm):
    """Count the allocations of 200 steps, and of a loop that does nothing, for every kind of job."""
    # Two lanes that are in LAPACK together make OpenBLAS map a second buffer: let them meet before counting, on a busy
    # machine too, in reductions that last for some milliseconds each and hold no lock of the interpreter's.
    u, A = np.random.default_rng(0).normal(size=(2, 120, 130))[0], np.random.default_rng(1).normal(size=(120, 11, 12))
    threads = [threading.Thread(target=lambda: [kron.reduce(u, A, 60, rng=0) for _ in range(40)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Job("ok", "RNN", "float64", 4, 16, n_threads=2).steps(2000)
    jobs = [
        *itertools.product(CELLS, ("float32", "float64"), (8,), (3,), (1, 2), (False, True), (False, True)),
        # odd sizes for BLAS; one lane; arrays too large for NumPy's cache of small blocks
        *itertools.product(("RNN", "LSTM"), ("float32", "float64"), (19,), (2,), (1, 2)),
        *itertools.product(("RHN", "GRU"), ("float32", "float64"), (16,), (1,)),
        *itertools.product(("RNN", "GRU"), ("float64",), (4,), (200,), (1, 2), (True,), (True,)),
    ]
    counts = {}
    for options in jobs:
        job = Job(algorithm, *options)
        idle = count(job.steps, 200, Nothing())
        job.steps(100)
        counts[" ".join(map(str, options))] = count(job.steps, 200, backtraces=1), idle
    return counts


def exported():
    """Count what 100 calls of each exported kernel allocate, OpenBLAS apart."""
    counts = {}
    k, G, n, N, rank, m = 2, 3, 19, 23, 8, 40
    S, P = k * n, G * n
    for prefix, dtype in (("s", "float32"), ("d", "float64")):
        rng = np.random.default_rng(0)
        u, A, H, c = (rng.normal(size=shape).astype(dtype) for shape in ((N, m), (N, S, P), (S, S), (k, k, n)))
        out, rows, gram = np.empty((N, S, P), dtype), np.empty((N, P), dtype), np.empty((N, N))
        u_new, A_new, variance = np.empty((rank, m), dtype), np.empty((rank, S, P), dtype), np.empty(1)
        workspace = np.empty(exported_kernel(prefix + "kron_reduce_workspace")(N, rank), np.uint8)
        reduced = u_new, A_new, workspace, variance
        for name, arguments in {
            "kron_reduce": (N, rank, m, S * P, u, A, np.ones(N), 0.0, *reduced),
            "kron_reduce by sampling": (N, rank, m, S * P, u, A, None, 0.5, *reduced),
            "kron_left_multiply": (N, S, S, P, H, A, out),
            "kron_contract": (N, S, P, m, H, u, A, rows, out),
            "immediate_factor": (k, G, n, H, A, out),
            "jacobian_dense_part": (k, G, n, A, A, out),
            "transition_times_jacobian": (k, n, H, A, c, out),
            "gemm": (S, P, S, 1.0, H, A, 0.0, out),
            "gram": (N, S * P, A, workspace, gram),
        }.items():
            call = functools.partial(exported_kernel(prefix + name.split()[0]), *arguments)
            call()
            counts[prefix + name], _ = count(lambda call=call: [call() for _ in range(100)], backtraces=1)
    return counts


def planted():
    """Count allocations that are certainly there."""
    libc = ctypes.CDLL(None)
    pointer = ctypes.c_void_p()
    for name in "malloc", "calloc", "aligned_alloc", "memalign", "mmap", "realloc":
        getattr(libc, name).restype = ctypes.c_void_p
    private = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS
    job = Job("ok", "LSTM", "float64", 16, 16)
    job.steps(40)
    x, estimator = job.xs[0], job.estimator
    counts = {
        "nothing": count(lambda: None),
        "malloc": count(libc.malloc, 1),
        "calloc": count(libc.calloc, 1, 1),
        "realloc": count(libc.realloc, None, 1),
        "posix_memalign": count(libc.posix_memalign, ctypes.byref(pointer), 64, 64),
        "aligned_alloc": count(libc.aligned_alloc, 64, 64),
        "mmap": count(libc.mmap, None, 4096, 3, private, -1, 0),
        "np.empty": count(np.empty, 1 << 20),
        "step": count(estimator.step, x),
        "gradient": count(estimator.gradient, job.dh),
        "flush": count(estimator.flush),
        "clone": count(estimator.clone),
    }
    return {name: others for name, (others, _) in counts.items()}


def traced():
    """Return Python's net and peak growth in bytes over 500 steps, for every kind of job and for a leak."""
    growth = {}

    def trace(name, job, estimator=None):
        job.steps(50, estimator)
        tracemalloc.start()
        job.steps(300, estimator)  # fills free lists
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        job.steps(500, estimator)
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        growth[name] = after - before, peak - before

    flags = (False, True), (False, True)
    for options in itertools.product(ALGORITHMS, CELLS, ("float32",), (8,), (3,), (1,), *flags):
        trace(" ".join(map(str, options)), Job(*options))
    trace("idle", job := Job("ok", "RNN", "float32", 8, 3), Nothing())
    trace("leak", job, Leak())
    return growth


class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def grown(algorithm, steps):
    """Return what many small steps add to glibc's bytes in use (None: cannot tell) and to resident memory."""
    def in_use():
        info = mallinfo()
        return info.uordblks + info.hblkhd

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is not None:
        mallinfo.restype = Mallinfo
    leaks = algorithm == "leak"
    job = Job("ok" if leaks else algorithm, "RHN", "float32", 4, 1, symbols=True, resets=True)
    estimator = Leak() if leaks else job.estimator
    for count in 2000, int(steps):  # warm-up, of measuring too
        before = mallinfo and in_use(), resident()
        job.steps(count, estimator)
        after = mallinfo and in_use(), resident()
    return mallinfo and after[0] - before[0], after[1] - before[1]


# ---- in the test process -----------------------------------------------------------------------------------


def has_avx2():
    return " avx2 " in Path("/proc/cpuinfo").read_text()


def in_child(function, *arguments, preload=None, **variables):
    # passive: threads that spin while they wait are slow on a busy machine
    fixed = {"PYTHONMALLOC": "pymalloc", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment = os.environ | fixed | variables
    for name in "PYTHONDEVMODE", "PYTHONTRACEMALLOC":
        environment.pop(name, None)
    if preload:
        environment["LD_PRELOAD"] = str(preload)
    command = [sys.executable, "-m", "tests.test_memory", function, *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, check=True, stdout=subprocess.PIPE, timeout=120)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_library(HERE / "count_allocations.c", tmp_path_factory.mktemp("shim"), "-O1", "-ldl")


@glibc
def test_counter_counts(shim):
    counts = in_child("planted", preload=shim)
    assert counts.pop("nothing") == 0
    for name in "malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "mmap", "np.empty":
        assert counts.pop(name) == 1, name
    assert set(counts) == {"step", "gradient", "flush", "clone"}  # without out=
    assert min(counts.values()) >= 1, counts


@glibc
@pytest.mark.parametrize("kernels", ["native", "Haswell"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps_allocate_nothing_in_c(algorithm, kernels, shim):
    if kernels == "native":
        counts = in_child("allocations", algorithm, preload=shim)
        counts = {job: (found[0], idle[0]) for job, (found, idle) in counts.items()}
    elif has_avx2():
        counts = in_child("allocations", algorithm, preload=shim, OPENBLAS_CORETYPE=kernels)
    else:
        pytest.skip("has no AVX2")
    # Python itself may allocate once in a while, in the idle run as well: a real allocation would be there at each step
    assert {job: found for job, (found, idle) in counts.items() if found > idle} == {}


@glibc
def test_exported_kernels_allocate_nothing(shim):
    counts = in_child("exported", preload=shim)
    assert len(counts) == 18
    assert {name: found for name, found in counts.items() if found >= 100} == {}  # ctypes may once in a while


def test_steps_allocate_nothing_in_python():
    # Not a peak of 0: a few ints and slices live for an instant, in the loop that does nothing as well.
    growth = in_child("traced")
    assert growth.pop("leak")[0] > 500 * 16
    assert {job: found for job, found in growth.items() if found[0] > 0 or found[1] >= 1024} == {}


@linux
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps_grow_by_nothing(algorithm):
    in_use, resident = in_child("grown", algorithm, 100_000)
    assert in_use is None or in_use < 1024  # not zero: what waits in glibc's thread cache counts as in use
    assert resident < 2**18  # under three bytes a step: a page may be touched for the first time only now


@linux
def test_growth_is_seen():
    in_use, resident = in_child("grown", "leak", 100_000)
    assert in_use is None or in_use >= 100_000 * 16
    assert resident > 100_000 * 32


if __name__ == "__main__":
    gc.disable()  # a cycle would be garbage, too
    function, *arguments = sys.argv[1:]
    print(json.dumps(globals()[function](*arguments)))
