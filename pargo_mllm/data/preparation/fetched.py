"""Pictures that are downloaded: each address is asked once, by whichever run comes to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pargo_mllm.data.fetching import STATUS, UNREACHABLE, Address, FetchError, fetch
from pargo_mllm.data.pictures import PictureError, stored_size
from pargo_mllm.errors import UserError
from pargo_mllm.files import whole_file

NO_PICTURE = "addresses that lead to no picture"
# requests of one process at a time
AT_A_TIME = 16
# the network may be down, or the server be asked too often: another run may have it
TRANSIENT = (UNREACHABLE, STATUS.format(429), STATUS.format(503))
# so many of these one behind the other, and it is no longer worth asking
IN_A_ROW = 100


def fetch_all(addresses: Iterable[str], folder: Path, may_connect: Callable[[Address], bool]) -> dict[str, Path | str]:
    """The file with what lies at each address, or the reason why there is none. What was asked before is not asked again.

    Args:
        folder: what was fetched is kept in it, and which addresses had nothing.
        may_connect: see :func:`pargo_mllm.data.fetching.fetch`.

    Raises:
        UserError: if :data:`IN_A_ROW` could not be fetched for reasons that pass.
    """
    wanted = list(dict.fromkeys(addresses))
    got: dict[str, Path | str] = {}
    in_a_row = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        try:
            found_at = pool.map(partial(_fetched, folder=folder, may_connect=may_connect), wanted)
            for address, found in zip(wanted, found_at, strict=True):
                got[address] = found
                in_a_row = in_a_row + 1 if found in TRANSIENT else 0
                if in_a_row >= IN_A_ROW:
                    raise UserError(
                        f"{IN_A_ROW} pictures in a row could not be fetched; the last are {found}. What was fetched is kept: "
                        "run the same command again, later, to go on."
                    )
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return got


def _fetched(address: str, folder: Path, may_connect: Callable[[Address], bool]) -> Path | str:
    name = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
    file, failed = folder / name[:2] / name, folder / name[:2] / f"{name}.failed"
    if file.exists():
        return file
    if failed.exists():
        return failed.read_text(encoding="utf-8")
    try:
        content = fetch(address, may_connect=may_connect)
        stored_size(content, address)
    except FetchError as error:
        reason = error.reason
        if reason in TRANSIENT:
            return reason
    except PictureError:
        reason = NO_PICTURE
    else:
        reason = ""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(failed if reason else file, shared=True, durable=False) as aside:
        aside.write_bytes(reason.encode() if reason else content)
    return reason or file
