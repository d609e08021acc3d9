"""Saved folders name their classes: processes that never imported this package load them, or are told how."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from peft import PeftModel

from pargo_mllm.cli import main
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.modeling import ParGoForConditionalGeneration
from tests.mllm.made.miniature_families import make_family

CLASSES = {
    "AutoConfig": "ParGoConfig",
    "AutoModel": "ParGoModel",
    "AutoModelForImageTextToText": "ParGoForConditionalGeneration",
    "AutoProcessor": "ParGoProcessor",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto_map") / "model"
    model, processor = make_family("vicuna")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(folder, code):
    """In a process of its own, with a cache of its own for modules."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=300
    )


def test_a_process_that_never_imported_the_package_loads_all_classes(folder):
    again = folder.parent / "again"
    code = f"""
import sys, transformers
for auto in {list(CLASSES)}:
    loaded = getattr(transformers, auto).from_pretrained({str(folder)!r}, trust_remote_code=True)
    print(auto, type(loaded).__module__, type(loaded).__name__)
    # AutoModel leaves out the head
    if auto in ("AutoModelForImageTextToText", "AutoProcessor"):
        loaded.save_pretrained({str(again)!r})
"""
    finished = run(folder, f"import sys\nassert 'pargo_mllm' not in sys.modules\n{code}")
    assert finished.returncode == 0, finished.stderr
    found = [line.split() for line in finished.stdout.splitlines()]
    assert {auto: name for auto, _, name in found} == CLASSES
    assert all(module.startswith("pargo_mllm.") for _, module, _ in found)
    # what they save is what was there: no source of this package lies in the folder
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("config.json", "processor_config.json"):
        assert json.loads((again / name).read_text())["auto_map"] == json.loads((folder / name).read_text())["auto_map"]


def test_without_trust_transformers_says_what_to_pass(folder):
    code = f"""
import transformers
for auto in {list(CLASSES)}:
    try:
        getattr(transformers, auto).from_pretrained({str(folder)!r}, trust_remote_code=False)
    except ValueError as error:
        print(auto, str(error).splitlines()[-1])
"""
    told = "Please pass the argument `trust_remote_code=True` to allow custom code to be run."
    assert run(folder, code).stdout.splitlines() == [f"{auto} {told}" for auto in CLASSES]


def test_where_the_package_is_missing_the_folder_says_what_to_install(folder):
    code = f"""
import sys, transformers
sys.modules["pargo_mllm"] = None
transformers.AutoConfig.from_pretrained({str(folder)!r}, trust_remote_code=True)
"""
    finished = run(folder, code)
    assert finished.returncode == 1
    assert "pip install 'pargo[mllm]'" in finished.stderr.splitlines()[-1]


def names_its_classes(folder):
    maps = [json.loads((folder / name).read_text()).get("auto_map", {}) for name in ("config.json", "processor_config.json")]
    return {**maps[0], **maps[1]} == {auto: f"pargo_classes.{name}" for auto, name in CLASSES.items()} and (
        folder / "pargo_classes.py"
    ).is_file()


def test_a_merged_folder_names_its_classes(folder, tmp_path):
    base = shutil.copytree(folder, tmp_path / "base")
    adapted: PeftModel = add_lora(
        ParGoForConditionalGeneration.from_pretrained(base), LoraSettings(rank=2, alpha=4, dropout=0.0)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    assert main(["merge", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "out")]) == 0
    assert names_its_classes(tmp_path / "out")
    assert names_its_classes(base)
