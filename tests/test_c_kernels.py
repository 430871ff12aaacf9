"""The C kernels against plain loops in C (kernels.c): on every instruction set of this processor, and NEON emulated."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import INSTRUCTION_SETS, compile_library

HERE = Path(__file__).parent
SIMD = HERE.parent / "okcore" / "_simd"

# The kernels are those of the compiled module: its symbols are made known to the library that is loaded next.
PROGRAM = """
import ctypes, sys
from okcore import _kernels
ctypes.CDLL(_kernels.__file__, ctypes.RTLD_GLOBAL)
sys.exit(ctypes.CDLL(sys.argv[1]).main())
"""

# As in setup.py, with warnings
FLAGS = ["-fno-strict-aliasing", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", f"-I{SIMD}"]
AARCH64 = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def instructions_of(command, **variables):
    """Run kernels.c; return the name of the instruction set that it ran on."""
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[0]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_library(HERE / "kernels.c", tmp_path_factory.mktemp("kernels"), "-O1", *FLAGS, "-lm")


@pytest.mark.skipif(sys.platform != "linux", reason="relies on how ELF finds symbols")
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_kernels(instructions, library):
    command = [sys.executable, "-c", PROGRAM, library]
    assert instructions_of(command, OKCORE_INSTRUCTIONS=instructions) == instructions


@pytest.mark.skipif(not all(AARCH64), reason="needs Debian's gcc-aarch64-linux-gnu and qemu-user")
def test_kernels_on_an_emulated_aarch64(tmp_path):
    compiler, emulator = AARCH64
    kernels, program = tmp_path / "simd.o", tmp_path / "kernels"
    subprocess.run([compiler, "-O3", *FLAGS, "-c", SIMD / "simd.c", "-o", kernels], check=True)
    subprocess.run([compiler, "-O1", *FLAGS, "-static", HERE / "kernels.c", kernels, "-o", program, "-lm"], check=True)
    assert instructions_of([emulator, program], OKCORE_INSTRUCTIONS="") == "neon"
