"""``Train_GCC-training.tsv``: caption, tab, address; no header, no quoting."""

from __future__ import annotations

from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.official.serving import address_of_nothing, served
from tests.mllm.made.shard_files import picture_bytes


def write(name: str, folder: Path) -> Truth:
    lines, pictures, said = [], {}, {}
    for number in range(9):
        content = picture_bytes(number, "JPEG" if number % 2 else "PNG")
        caption = f'a "caption {number} that nobody closes'
        # what stands at such an address may be no picture, or nothing at all
        address = {3: address_of_nothing(), 5: served(b"<html>gone</html>")}.get(number, served(content))
        lines.append(f"{caption}\t{address}")
        if number not in (3, 5):
            pictures[f"GCC_train_{number:09d}"], said[f"GCC_train_{number:09d}"] = content, (caption,)
    lines += ["no address", f"\t{served(picture_bytes(0))}", "an empty one\t"]
    (folder / "Train_GCC-training.tsv").write_bytes("\r\n".join(lines).encode() + b"\r\nno \xff UTF-8\thttp://a/b\r\n")
    return Truth(pictures, said, skipped=2 + 4)
