"""``pargo eval`` from beginning to end with a real language model: generated scenes, and POPE's questions about photographs."""

import json
import random
import subprocess
import sys

import pytest

from pargo_mllm.cli import main

pytestmark = pytest.mark.real


def write_pope(folder, sample, of_each=2):
    """POPE's official file about COCO pictures: an object that is there, and one that is not, in turns."""
    instances = json.loads((sample / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    lines = []
    for image in instances["images"]:
        there = sorted({names[one["category_id"]] for one in instances["annotations"] if one["image_id"] == image["id"]})
        absent = sorted(set(names.values()) - set(there))
        chosen = random.Random(image["id"])
        for label, objects in (("yes", there), ("no", absent)):
            for name in chosen.sample(objects, min(of_each, len(objects))):
                text = f"Is there a {name} in the image?"
                lines.append({"question_id": len(lines) + 1, "image": image["file_name"], "text": text, "label": label})
    folder.mkdir()
    (folder / "images").symlink_to(sample / "images")
    (folder / "coco_pope_popular.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_scenes_and_pope_run_end_to_end(assembled, shared, tmp_path, capsys):
    model, _ = assembled
    asked = write_pope(tmp_path / "pope", shared / "data" / "coco_sample")
    assert len({line["image"] for line in asked}) > 20
    for name, data in (("scenes", "scenes:held_out=8"), ("pope", str(tmp_path / "pope"))):
        run = tmp_path / f"run-{name}"
        words = ["eval", str(model), "--benchmark", name, "--data", data, "--out", str(run), "--json", "--device", "cpu"]
        done = subprocess.run([sys.executable, "-m", "pargo_mllm", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["benchmark"] == name
        if name == "pope":
            assert result["questions"] == len(asked)
            assert sum(result["counts"].values()) == len(asked)
        # its own file of predictions scores the same
        assert main(["score", str(run), "--benchmark", name, "--json", *(["--answers", data] if name == "pope" else [])]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["accuracy"] == result["accuracy"]
        assert main(["report", str(run), "--out", str(tmp_path / f"{name}.html")]) == 0
        assert (tmp_path / f"{name}.html").stat().st_size > 5_000
        capsys.readouterr()
