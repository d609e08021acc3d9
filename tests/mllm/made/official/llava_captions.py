"""``chat.json`` or ``blip_laion_cc_sbu_558k.json`` with ``images/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    records, pictures, said = [], {}, {}
    for number in range(7):
        # LLaVA's names: flat in the one, in folders in the other
        id = f"GCC_train_{number:09d}" if name == "cc3m_595k" else f"00{number:07d}"
        image = f"{id}.jpg" if name == "cc3m_595k" else f"{id[:5]}/{id}.jpg"
        (folder / "images" / image).parent.mkdir(parents=True, exist_ok=True)
        noise_picture(30, 40, number).save(folder / "images" / image)
        question = "What is this?\n<image>" if number % 2 else "<image>\nSay it in short."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"caption {number}"}]
        records.append({"id": id, "image": image, "conversations": turns})
        pictures[id], said[id] = f"images/{image}", (question, f"caption {number}")
    records.append({**records[0], "id": "gone", "image": "gone.jpg"})
    records.append({**records[0], "id": "marks", "conversations": [{"from": "human", "value": "no mark"}, turns[1]]})
    records.append({"id": "empty"})
    file = "chat.json" if name == "cc3m_595k" else "blip_laion_cc_sbu_558k.json"
    (folder / file).write_text(json.dumps(records))
    return Truth(pictures, said, skipped=3)
