"""Drives CMake for the wheel. Everything about the native build is in CMakeLists.txt."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def torch_dir() -> Path:
    """Where torch's headers and libraries are, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("equikernels: building needs torch >= 2.10 in the build environment")
    return Path(spec.origin).parent


class CMakeBuild(build_ext):
    """One CMake project makes both libraries, _ops and _ops_cuda. Neither knows of Python."""

    def run(self) -> None:
        build = HERE / self.build_temp / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        prefix = HERE if self.inplace else (HERE / self.build_lib).resolve()
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "EK_TORCH_DIR": torch_dir(),
            "EK_CUDA": os.environ.get("EQUIKERNELS_CUDA", "auto"),
            "EK_CUDA_ARCHS": os.environ.get("EQUIKERNELS_CUDA_ARCHS", "auto").replace(",", ";"),
            "CMAKE_INSTALL_PREFIX": prefix,
        }
        generator = []
        if ninja := shutil.which("ninja"):
            # Named outright: an isolated build has ninja elsewhere each time, and CMake would remember the old place.
            generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        definitions = [f"-D{key}={value}" for key, value in options.items()]
        subprocess.check_call(["cmake", "-S", HERE, "-B", build, *generator, *definitions])
        subprocess.check_call(["cmake", "--build", build])
        for library in (prefix / "equikernels").glob("*.so"):
            library.unlink()  # of an earlier build, perhaps with CUDA
        subprocess.check_call(["cmake", "--install", build, "--strip"])

    def get_outputs(self) -> list[str]:
        return [str(p) for p in Path(self.build_lib, "equikernels").glob("*.so")]


class FreshBuildPy(build_py):
    """Copies the Python files into an empty folder: a module that is gone from the source is gone from the wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "conftest"]


version = (HERE / "equikernels" / "_version.py").read_text().split('"')[1]
setup(
    version=version,
    # The folder bench is equikernels.bench in the wheel; its pytest files stay behind.
    packages=[
        *find_packages(include=["equikernels*"]),
        *(f"equikernels.bench{part}" for part in ("", ".baselines", ".studies")),
    ],
    package_dir={"equikernels.bench": "bench"},
    # A placeholder that makes the wheel a platform wheel, for every Python; the targets are CMake's.
    ext_modules=[Extension("equikernels._ops", sources=[], py_limited_api=True)],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    scripts=["bin/equikernels"],  # not an entry point: those import the package, and torch, before a line of ours runs
    cmdclass={"build_ext": CMakeBuild, "build_py": FreshBuildPy},
    zip_safe=False,
)
