"""Build the compiled modules; everything else about the package is in pyproject.toml.

OKCORE_DEBUG=1 builds with checks of bounds, overflow and initialisation, and little optimisation.
OKCORE_OPENMP=0 builds without OpenMP (lanes then run on one thread).
OKCORE_SANITIZE=address,undefined builds with the compiler's sanitizers, whose libraries must then be loaded first.
CFLAGS=-g keeps the symbols of an optimised build, which a profiler needs; otherwise it is stripped.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy
import scipy
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
DEBUG = os.environ.get("OKCORE_DEBUG", "0") == "1"
SANITIZE = os.environ.get("OKCORE_SANITIZE", "")
SYMBOLS = DEBUG or SANITIZE or "-g" in os.environ.get("CFLAGS", "").split()
C_KERNELS = HERE / "okcore" / "_simd"
WITH_C_KERNELS = "okcore._kernels"  # the one module they are linked into; the others cimport from it


def write_blas_int():
    """Name the integer that SciPy's BLAS takes: SciPy has `blas_int` from 1.18 on, plain int before.

    It is int in SciPy's wheels of any version, so what is built with one runs with the others.
    """
    declarations = (Path(scipy.__file__).parent / "linalg" / "cython_blas.pxd").read_text()
    line = (
        "from scipy.linalg.cython_blas cimport blas_int"
        if "blas_int" in declarations
        else "ctypedef int blas_int"
    )
    shim = HERE / "okcore" / "_blas_int.pxi"
    if not shim.exists() or shim.read_text() != line + "\n":
        shim.write_text(line + "\n")


class BuildExtensions(build_ext):
    """Builds side by side, with OpenMP where the compiler has it."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        if os.environ.get("OKCORE_OPENMP", "1") == "1" and self.has_openmp():
            for extension in self.extensions:
                extension.extra_compile_args.append("-fopenmp")
                extension.extra_link_args.append("-fopenmp")
        super().build_extensions()

    def has_openmp(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=["-fopenmp"]
                )
                self.compiler.link_executable(
                    objects, str(Path(folder) / "probe"), extra_postargs=["-fopenmp"]
                )
            except Exception:
                print("okcore: no OpenMP in this compiler, building for one thread")
                return False
        return True


def compile_to_c(extensions):
    """Run Cython; a warning or a performance hint (an exception check in a nogil call, say) fails the build."""
    Options.warning_errors = True
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            compiled = cythonize(
                extensions,
                language_level=3,
                force=DEBUG,
                compiler_directives={
                    "boundscheck": DEBUG,
                    "initializedcheck": DEBUG,
                    "overflowcheck": DEBUG,
                    "wraparound": False,
                    "cdivision": True,
                    "annotation_typing": False,  # annotations are for users
                },
            )
    finally:
        print(messages.getvalue(), file=sys.stderr, end="")
    if "performance hint" in messages.getvalue() and not DEBUG:  # bounds checks are what a debug build is for
        for extension in compiled:
            Path(extension.sources[0]).unlink()
        sys.exit("okcore: Cython gave performance hints (above); they count as errors")
    return compiled


write_blas_int()
flags = ["-O1"] if DEBUG or SANITIZE else ["-O3"]
flags += ["-g"] if SYMBOLS else ["-g0"]  # the interpreter's own flags may ask for more
flags += ["-fno-strict-aliasing", "-ffp-contract=fast", "-fno-math-errno"]  # errno would keep sqrt out of vectors
sanitize = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"] if SANITIZE else []
strip = ["-Wl,-s"] if sys.platform == "linux" and not SYMBOLS else []
extensions = []
for path in sorted((HERE / "okcore").rglob("*.pyx")):
    source = path.relative_to(HERE)
    name = ".".join(source.with_suffix("").parts)
    extensions.append(
        Extension(
            name,
            [str(source)] + ["okcore/_simd/simd.c"] * (name == WITH_C_KERNELS),
            include_dirs=[numpy.get_include(), str(C_KERNELS.relative_to(HERE))],
            depends=[str(header.relative_to(HERE)) for header in sorted(C_KERNELS.glob("*.h"))],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")] + [("OKCORE_DEBUG", "1")] * DEBUG,
            extra_compile_args=[*flags, *sanitize],
            extra_link_args=[*strip, *sanitize[:1]],
        )
    )
setup(ext_modules=compile_to_c(extensions), cmdclass={"build_ext": BuildExtensions})
