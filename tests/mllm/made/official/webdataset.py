"""Shards as img2dataset writes them, with what others put into theirs."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.shard_files import picture_bytes


def write(name: str, folder: Path) -> Truth:
    pictures, said = {}, {}
    for shard in range(2):
        members: list[tuple[str, bytes]] = []
        for number in range(4):
            key, content = f"{shard:05d}{number:04d}", picture_bytes(80 + 10 * shard + number, "JPEG")
            caption = f"sample {number} of shard {shard}"
            pictures[f"{shard:05d}/{key}"], said[f"{shard:05d}/{key}"] = content, (caption,)
            meta = {"caption": caption, "url": "http://a/b", "key": key, "status": "success", "width": 8, "height": 6}
            # one member of the three may be absent
            members.append((f"{key}.jpg", content))
            if number != 1:
                members.append((f"{key}.json", json.dumps(meta).encode()))
            if number != 2:
                members.append((f"{key}.txt", b"another one" if number != 1 else caption.encode()))
        members += [
            ("lonely.txt", b"a caption without a picture"),
            ("damaged.jpg", b"\xff\xd8\xff no picture"),
            ("damaged.txt", b"a caption"),
            ("silent.jpg", picture_bytes(0)),
            ("silent.txt", b"  "),
            ("half.jpg", picture_bytes(0)),
            ("half.json", b'{"caption": "half \\ud83d"}'),
            ("list.jpg", picture_bytes(0)),
            ("list.json", b"[1, 2]"),
            ("two.0.jpg", picture_bytes(0)),
            ("two.1.jpg", picture_bytes(0)),
            ("two.json", b'{"caption": "of two"}'),
            ("other.cls", b"7"),
        ]
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return Truth(pictures, said, skipped=2 * 7)
