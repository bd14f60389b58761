"""Only what pyproject.toml cannot declare: the C extensions and the stable-ABI tag of the wheel."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build_native.py:ffibuilder", "csrc/build_sim.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
