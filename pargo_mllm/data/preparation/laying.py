"""Pictures laid beside their records, as files or inside a shard."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path


def lay(content: Path | bytes, file: Path, aside: Path, copy: bool = False) -> None:
    """A picture beside its record: a hard link where the disk can, which takes no room, else a copy. What lies there already,
    for another record or by another process, is the same picture.

    Args:
        aside: where a copy is written first, on the same disk: a kill leaves nothing among the pictures. What a machine's fault
            leaves half written is found by validation.
        copy: copy even where a link can be made.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path) and not copy:
        try:
            os.link(os.path.realpath(content), file)
            return
        except FileExistsError:
            return
        # another disk, or one without links
        except OSError:
            pass
    if isinstance(content, bytes):
        aside.write_bytes(content)
    else:
        shutil.copyfile(content, aside)
    os.replace(aside, file)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A file of a shard: the same bytes whoever writes it, whenever."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
