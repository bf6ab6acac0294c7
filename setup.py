"""The extension modules: tiles, gradients and products for each instruction set; the detection of the processor;
constants
that C and Python share; top-k; prefix sums; the order of keys in a tree. All else is in pyproject.toml."""

import os
import platform
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path("src_cython")
HEADERS = [str(path) for path in SOURCE.glob("*.h")]
# Each flag by name: none of them lets the compiler reorder sums or assume away NaN. -fopenmp-simd reads the reductions'
# pragmas and links no runtime; without -fno-math-errno and -fno-trapping-math sqrt and selections stay scalar.
# -ffp-contract stays as the compiler has it (GCC fuses a*b + c where the processor can: v3, v4, arm64): speed asks for
# it, and the sums that recover their own rounding hold no product.
UNIX = ["-O3", "-g0", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
LEVELS = {
    "v2": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "plain": [],
}


def is_x86_64() -> bool:
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and sys.maxsize > 2**32
        and "arm64" not in os.environ.get("ARCHFLAGS", "")
    )


def compiled(kind: str, level: str) -> Extension:
    return Extension(
        f"fastnw.backends.compiled._{kind}_{level}",
        [str(SOURCE / f"_{kind}_{level}.pyx")],
        depends=[*HEADERS, *(str(path) for path in SOURCE.glob("_*.pxi"))],
        include_dirs=[str(SOURCE)],
    )


def level_of(extension: Extension) -> str | None:
    """By name: cythonize returns new objects, which would lose an attribute."""
    return next((level for level in LEVELS if extension.name.endswith(f"_{level}")), None)


class BuildLevels(build_ext):
    """Adds the flags; drops a level that the compiler does not know; compiles side by side."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            self.extensions = [e for e in self.extensions if level_of(e) in (None, "plain")]
        else:
            for extension in list(self.extensions):
                level = level_of(extension)
                extension.extra_compile_args = UNIX + LEVELS[level or "plain"]
                if level not in (None, "plain") and not self.compiles(extension.extra_compile_args):
                    print(f"fastnw: this compiler has no {level}; its tiles are left out")
                    self.extensions.remove(extension)
        super().build_extensions()

    def compiles(self, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "level.c"
            source.write_text("int main(void) { return 0; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            except Exception:  # each compiler class raises its own
                return False
        return True


# Other processors, and MSVC (whose C front end has none of these flags), get the plain body.
levels = ["plain"] if not is_x86_64() or sys.platform == "win32" else ["v2", "v3", "v4"]
# products need vectors, which the plain body does without
kinds = [(kind, level) for kind in ("tiles", "gradients") for level in levels]
kinds += [("products", level) for level in levels if level != "plain"]
extensions = [
    Extension(name, [str(SOURCE / source)], depends=HEADERS, include_dirs=[str(SOURCE)])
    for name, source in (
        ("fastnw.runtime._cpu", "_cpu.pyx"),
        ("fastnw.runtime._constants", "_constants.pyx"),
        ("fastnw.core._bounds", "_bounds.pyx"),
        ("fastnw.core._top_k", "_top_k.pyx"),
        ("fastnw.methods._prefix_sums", "_prefix_sums.pyx"),
        ("fastnw.methods.tree._order", "_order.pyx"),
    )
]
extensions += [compiled(*kind) for kind in kinds]
setup(
    ext_modules=cythonize(extensions, build_dir="build/cython", include_path=[str(SOURCE)]),
    cmdclass={"build_ext": BuildLevels},
)
