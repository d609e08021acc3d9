"""Three kinds of parquet: LAION's own, img2dataset's with the pictures in it, and img2dataset's beside a folder of files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.mllm.made.official import Truth
from tests.mllm.made.official.serving import served
from tests.mllm.made.shard_files import picture_bytes


def write(name: str, folder: Path) -> Truth:
    pictures, said = {}, {}

    def told(id, content, caption):
        pictures[id], said[id] = content, (caption,)
        return caption

    contents = [picture_bytes(60 + number, "JPEG") for number in range(9)]
    rows = [
        {
            "SAMPLE_ID": 1e9 + number,
            "URL": served(contents[number]),
            "TEXT": told(f"part-0/{number:08d}", contents[number], f"web {number}"),
        }
        for number in range(3)
    ]
    rows += [
        {"SAMPLE_ID": None, "URL": None, "TEXT": "without an address"},
        {"SAMPLE_ID": 7.0, "URL": "http://a/b", "TEXT": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
    # several row groups
    rows = [
        {
            "key": f"0{number}",
            "caption": told(f"part-1/0{number}", contents[number], f"kept {number}"),
            "status": "success",
            "jpg": contents[number],
        }
        for number in range(3, 7)
    ]
    rows.insert(1, {"key": "99", "caption": "gone", "status": "failed_to_download", "jpg": None})
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-1.parquet", row_group_size=2)
    (folder / "part-2").mkdir()
    rows = []
    for number in (7, 8):
        (folder / "part-2" / f"0{number}.jpg").write_bytes(contents[number])
        rows.append(
            {
                "url": "http://a/b",
                "key": f"0{number}",
                "caption": told(f"part-2/0{number}", contents[number], f"file {number}"),
                "status": "success",
            }
        )
    rows.append({"url": "http://a/b", "key": "00", "caption": "whose file is not there", "status": "success"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-2.parquet")
    return Truth(pictures, said, skipped=2 + 1 + 1)
