"""Only what pyproject.toml cannot declare: the C extensions and the stable-ABI tag of the wheel."""

from setuptools import Extension, setup

setup(
    cffi_modules=["csrc/build_native.py:ffibuilder", "csrc/build_sim.py:ffibuilder"],
    ext_modules=[
        Extension(
            "npukernels._shortcut",
            ["csrc/python/shortcut.c"],
            extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
