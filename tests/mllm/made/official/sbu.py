"""``sbu-captions-all.json``: three lists of one length."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.official.serving import address_of_nothing, served
from tests.mllm.made.shard_files import picture_bytes


def write(name: str, folder: Path) -> Truth:
    contents = [picture_bytes(40 + number, "JPEG") for number in range(8)]
    addresses = [*map(served, contents), address_of_nothing(), None, "ftp://example.com/a.jpg"]
    captions = [f"my photograph {number} of the sea" for number in range(len(addresses))]
    told = {"image_urls": addresses, "captions": captions, "user_ids": [f"u{number}" for number in range(len(addresses))]}
    (folder / "sbu-captions-all.json").write_text(json.dumps(told))
    ids = [f"sbu_{number:07d}" for number in range(8)]
    return Truth(dict(zip(ids, contents, strict=True)), {id: (captions[number],) for number, id in enumerate(ids)}, skipped=3)
