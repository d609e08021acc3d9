"""The package's own commands, and life without triton, in processes of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

from pargo_kernels.dispatch import TRITON_INSTALLED


def python(*arguments, **environment):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, timeout=600)


def test_env_report_names_versions_and_choices():
    done = python("-m", "pargo_kernels.env_report")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    lines = {name.strip(): value.strip() for name, value in lines.items()}
    assert lines["torch"] == torch.__version__
    assert lines["auto on cpu, float64"] == "torch"
    if lines["C kernels"].startswith("none: "):
        assert lines["auto on cpu, float32"] == "torch, without the C kernels"
    else:
        assert lines["auto on cpu, float32"] == lines["auto on cpu, bfloat16"] == "c"
        assert Path(lines["C kernels"].rsplit(", ", 1)[1]).is_file()
    assert lines["triton importable"] == str(TRITON_INSTALLED)


def test_the_torch_path_works_without_triton():
    script = """
        import sys
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "triton":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Hide())
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "triton" else find(name, *a)
        import torch
        from pargo_kernels.ops import cascaded_partial_attention, partial_global_attention
        x = torch.randn(1, 2, 6, 8, requires_grad=True)
        partial_global_attention(x, x, x, 4).sum().backward()
        cascaded_partial_attention(x, x, x, 3).sum().backward()
        assert not any(name.split(".")[0] == "triton" for name in sys.modules)
        try:
            partial_global_attention(x, x, x, 4, impl="triton")
        except ValueError as error:
            print(error)
    """
    done = python("-c", textwrap.dedent(script))
    assert done.returncode == 0, done.stderr
    assert "impl='triton' cannot run: triton is not installed (pip install triton). Use impl='torch'" in done.stdout


def test_aot_refuses_what_it_cannot_compile_for():
    done = python("-m", "pargo_kernels.aot", "--arch", "sm_12")
    assert done.returncode == 2
    assert "--arch sm_12 is unknown: use sm_80, sm_90, sm_100, gfx942" in done.stderr
    done = python("-m", "pargo_kernels.aot", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "an interpreted kernel cannot be compiled: unset it" in done.stderr
