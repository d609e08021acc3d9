"""The wheel as it is installed: what it asks for, what it holds, and what each package does with and without the extra."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pargo_cli", "pargo_kernels", "pargo_mllm")
# a call small enough for any machine, against its value by hand: two rows, each the mean of its half of the keys
SMALL_CALL = """
import torch
from pargo_kernels.partial_global_attention import partial_global_attention
value = torch.tensor([1.0, 3.0, 5.0, 11.0]).reshape(1, 1, 4, 1).expand(1, 1, 4, 16)
out = partial_global_attention(torch.zeros(1, 1, 3, 16), torch.zeros(1, 1, 4, 16), value, 2)
assert torch.equal(out[0, 0, :, 0], torch.tensor([2.0, 8.0, 5.0])), out
"""
MISSING = "pargo_mllm needs {}: pip install 'pargo[mllm]'"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked, built from a copy: nothing is left in the checkout."""
    try:
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found == "none" or Version(found) < Version("77"):
        pytest.skip(f"the wheel was not built: that needs setuptools>=77 here, and there is {found}")
    source, built, unpacked = (tmp_path_factory.mktemp(name) for name in ("source", "built", "unpacked"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, built], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = built.glob("*.whl")
    assert file.name.endswith("-py3-none-any.whl")
    zipfile.ZipFile(file).extractall(unpacked)
    return unpacked


def metadata(wheel):
    (folder,) = wheel.glob("pargo-*.dist-info")
    return Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))


def requirements(wheel, extra=None):
    """What the wheel asks for, for an extra or for itself, as pip reads it."""
    found = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist")]
    by_extra = [(re.search(r"extra == .(\w+)", str(one.marker)), one) for one in found]
    return [one for match, one in by_extra if (match and match[1]) == extra]


def names(required):
    return {canonicalize_name(one.name) for one in required}


@pytest.fixture(scope="module")
def base(wheel, tmp_path_factory):
    """The packages that the wheel asks for without an extra, and what those ask for, linked into a folder of their own."""
    folder = tmp_path_factory.mktemp("base")
    left, seen = [one for one in requirements(wheel) if not one.marker or one.marker.evaluate()], set()
    while left:
        name = canonicalize_name(left.pop().name)
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / part).exists():
                (folder / part).symlink_to(distribution.locate_file(part))
        asked = [Requirement(line) for line in distribution.requires or ()]
        left += [one for one in asked if not one.marker or one.marker.evaluate({"extra": ""})]
    return folder


def python(*arguments, path, cwd):
    """Run Python on nothing but the standard library and ``path``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRITON_"))}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, "-S", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_wheel_asks_for_torch_and_triton_alone(wheel):
    from pargo_mllm import REQUIRED_PACKAGES

    assert names(requirements(wheel)) == {"torch", "triton"}
    # what pargo_mllm names where it is missing is what its extra installs
    assert names(requirements(wheel, "mllm")) == set(REQUIRED_PACKAGES.values())
    for extra in ("demo", "eval", "data", "flash", "deepspeed", "timm"):
        assert [one.extras for one in requirements(wheel, extra) if one.name == "pargo"] == [{"mllm"}]
    assert [one.extras for one in requirements(wheel, "dev") if one.name == "pargo"] == [{"demo", "eval", "data"}]


def test_the_oldest_constraints_are_the_declared_lower_bounds(wheel):
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = {one.name: one.specifier for one in map(Requirement, (line for line in lines if not line.startswith("#")))}
    pins = {canonicalize_name(name): Version(str(specifier).removeprefix("==")) for name, specifier in pins.items()}
    declared = [one for extra in (None, "mllm", "demo", "dev") for one in requirements(wheel, extra) if one.name != "pargo"]
    bounds = {canonicalize_name(one.name): Version(str(one.specifier).removeprefix(">=")) for one in declared}
    # the exception that the file explains
    assert pins["torch"] > bounds.pop("torch")
    assert {name: pins.get(name) for name in bounds} == bounds


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    held = {str(file.relative_to(wheel)) for package in PACKAGES for file in (wheel / package).rglob("*") if file.is_file()}
    there = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == there
    assert {
        "pargo_kernels/triton_path/launch_table.json",
        "pargo_kernels/c_path/call.h",
        *(f"{package}/py.typed" for package in PACKAGES),
    } <= held
    assert metadata(wheel)["License-Expression"] == "BSD-3-Clause"


def test_without_the_extra_the_kernels_run_and_the_model_says_what_is_missing(wheel, base, tmp_path):
    path = (wheel, base)
    code = SMALL_CALL + (
        "import importlib, pkgutil, pargo_kernels\n"
        "from pargo_kernels import dispatch, env_report\n"
        "for module in pkgutil.walk_packages(pargo_kernels.__path__, 'pargo_kernels.'):\n"
        "    if dispatch.TRITON_INSTALLED or 'triton_path' not in module.name: importlib.import_module(module.name)\n"
        "env_report.main()\n"
    )
    kernels = python("-c", code, path=path, cwd=tmp_path)
    assert kernels.returncode == 0, kernels.stderr
    assert re.search(r"^transformers +not installed$", kernels.stdout, re.M), kernels.stdout
    # torch brings jinja2
    missing = MISSING.format("transformers, peft, accelerate, safetensors, numpy, pillow, pyyaml, tensorboard, tqdm, orjson")
    imported = python("-c", "import pargo_mllm", path=path, cwd=tmp_path)
    assert (imported.returncode, imported.stderr.splitlines()[-1]) == (1, f"ModuleNotFoundError: {missing}")
    # what pip writes for a console script
    scripts = next(wheel.glob("*.dist-info/entry_points.txt")).read_text().split("[console_scripts]\n")[1]
    name, module, function = re.match(r"(\w+) = ([\w.]+):(\w+)\n", scripts).groups()
    (tmp_path / name).write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    for command in (("-m", "pargo_mllm"), (tmp_path / name,)):
        done = python(*command, "train", "mini-stage1", path=path, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"pargo: {missing}\n")
    asked = python(tmp_path / name, "train", "--help", path=path, cwd=tmp_path)
    assert (asked.returncode, "--max-length N" in asked.stdout) == (0, True), asked.stderr


def test_what_fails_inside_a_package_that_is_there_is_not_called_missing(wheel, tmp_path):
    from pargo_mllm import REQUIRED_PACKAGES

    for name in REQUIRED_PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import absent_from_here\n")
    for arguments in (("-c", "import pargo_mllm"), ("-m", "pargo_mllm", "train", "mini-stage1")):
        inside = python(*arguments, path=(wheel, tmp_path), cwd=tmp_path)
        assert inside.returncode == 1
        assert inside.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'absent_from_here'"
    shutil.rmtree(tmp_path / "PIL")
    one = python("-c", "import pargo_mllm", path=(wheel, tmp_path), cwd=tmp_path)
    assert one.stderr.splitlines()[-1] == "ModuleNotFoundError: " + MISSING.format("pillow")


def test_with_the_extra_both_run_from_the_wheel(wheel, tmp_path):
    code = SMALL_CALL + (
        "import pargo_kernels, pargo_mllm\n"
        "from pargo_kernels.triton_path import launch_table\n"
        "from pargo_mllm.training.recipes import load_recipe\n"
        "assert launch_table.entries()\n"
        "for name in pargo_mllm.__all__: getattr(pargo_mllm, name)\n"
        "load_recipe('mini-stage1'), load_recipe('vicuna-7b-stage2')\n"
        "import pargo_cli\n"
        "print(pargo_cli.__file__, pargo_kernels.__file__, pargo_mllm.__file__, sep='\\n')\n"
    )
    site = Path(importlib.metadata.distribution("torch").locate_file(""))
    done = python("-c", code, path=(wheel, site), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(wheel / package / "__init__.py") for package in PACKAGES]
    version = python("-m", "pargo_mllm", "--version", path=(wheel, site), cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, f"pargo {metadata(wheel)['Version']}\n"), version.stderr
