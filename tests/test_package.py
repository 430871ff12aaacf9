"""The package as it is shipped: version, configuration, source archive, compiled interface."""

import io
import platform
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import okcore
from okcore import _config
from okcore._engine import engine

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_is_the_static_one():
    assert okcore.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_show_config():
    text = io.StringIO()
    okcore.show_config(text)
    for word in ("okcore:", "numpy:", "scipy:", "build:", "user_api blas", "num_threads"):
        assert word in text.getvalue()


def test_the_processor_is_the_first_that_the_system_names(monkeypatch, tmp_path):
    monkeypatch.setattr(_config, "CPUINFO", tmp_path / "cpuinfo")
    system = f"{platform.system()} {platform.machine()}"
    assert _config.config()["machine"] == system
    _config.CPUINFO.write_text("model name\t: A: 1\nmodel\t\t: 17\n\nmodel name\t: B\nBogoMIPS\t: 50\n")
    assert _config.config()["machine"] == f"{system}, A: 1, model 17"
    _config.CPUINFO.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert _config.config()["machine"] == system


def test_only_one_module_cimports_scipy():
    users = [path.name for path in (ROOT / "okcore").rglob("*.py[xd]") if "scipy" in path.read_text()]
    assert users == ["_blas.pyx"]


def test_import_pulls_in_no_plotting_and_is_quiet():
    code = "import sys, okcore; print(any(m in sys.modules for m in ('matplotlib', 'torch', 'pandas')))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads names from ELF files")
def test_compiled_modules_are_stripped_and_hold_the_kernels_once():
    modules = {path.name: path.read_bytes() for path in Path(okcore.__file__).parent.rglob("*.so")}
    if "debug" in engine.build_flags() or any(b"san_" in content for content in modules.values()):
        pytest.skip("debug builds and those with sanitizers keep their symbols")
    assert not [name for name, content in modules.items() if b".symtab" in content or b".debug_info" in content]
    (holder,) = [name for name, content in modules.items() if b"okcore_sgemm" in content]
    assert holder.startswith("_kernels.")


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
def test_wheel_holds_declarations_and_no_sources(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    patterns = ("**/*.py", "**/*.pyi", "**/*.pxd", "py.typed", "cython_kernels_api.h")
    assert names == {str(path.relative_to(ROOT)) for name in patterns for path in (ROOT / "okcore").glob(name)}


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
def test_source_archive_holds_all_sources_and_needs_no_git(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {re.sub(r"^[^/]+/", "", name) for name in archive.getnames()}
    package = ("okcore/**/*.py", "okcore/**/*.py[xdi]", "okcore/py.typed", "okcore/**/*.h", "okcore/_simd/simd.c")
    tests = (f"tests/**/*.{kind}" for kind in ("py", "c", "cpp", "pyx", "json", "toml"))
    patterns = (*package, *tests, "examples/*.py", "docs/**/*.*")
    sources = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    sources.remove("okcore/cython_kernels_api.h")  # Cython writes it
    assert sources <= names, sources - names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "Makefile"} <= names
    built = re.compile(r".*\.(so|pxi)|okcore/.*(?<!/simd)\.c|.*_api\.h")
    assert not [name for name in names if built.fullmatch(name)]
