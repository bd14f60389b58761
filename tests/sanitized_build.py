"""``setup.py`` for ``tests/sanitize.sh``: compiles on all cores, and only what has changed in its text or flags.

With the sanitizers the build takes minutes of every core. It is resumed where it was interrupted, and a change of one
source costs one object. Variants that this CPU cannot run are built without sanitizers: what tests run is their code
as plain C, sanitized (``tests/unit/kernels/*_emulated.h``).
"""

import hashlib
import importlib
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools  # noqa: F401 - brings distutils, which Python 3.12 has no longer

UnixCCompiler = importlib.import_module("distutils.unixccompiler").UnixCCompiler
AVX512 = "avx512f" in Path("/proc/cpuinfo").read_text()
compile_one = UnixCCompiler._compile


def compile_changed(self, target, source, ext, arguments, postargs, pp_opts):
    """Compiles one source unless the object is that of the same preprocessed text, compiler and flags."""
    if not AVX512 and ("avx512" in source or "vnni" in source):
        postargs = [*postargs, "-fno-sanitize=all", "-O1"]
    command = [*self.compiler_so, *arguments, source, *postargs]
    text = subprocess.run([*command, "-E"], check=True, stdout=subprocess.PIPE).stdout
    version = subprocess.run([self.compiler_so[0], "--version"], check=True, stdout=subprocess.PIPE).stdout
    key = hashlib.sha256(repr(command).encode() + version + text).hexdigest()
    stored = Path(target + ".key")
    if Path(target).exists() and stored.exists() and stored.read_text() == key:
        return
    stored.unlink(missing_ok=True)
    compile_one(self, target, source, ext, arguments, postargs, pp_opts)
    stored.write_text(key)


def compile_all(self, sources, output_dir, extra_postargs, depends, **options):
    """``Compiler.compile`` with its loop over the objects in parallel."""
    _, objects, postargs, pp_opts, build = self._setup_compile(
        output_dir, options["macros"], options["include_dirs"], sources, depends, extra_postargs
    )
    arguments = self._get_cc_args(pp_opts, options["debug"], None)
    with ThreadPoolExecutor(int(os.environ.get("JOBS") or os.cpu_count())) as pool:
        list(pool.map(lambda o: self._compile(o, *build[o], arguments, postargs, pp_opts), objects))
    return objects


UnixCCompiler.compile, UnixCCompiler._compile = compile_all, compile_changed
sys.argv[0] = "setup.py"
runpy.run_path("setup.py", run_name="__main__")
