"""What sets of captions have in common: an entry is a picture and what is said of it."""

from __future__ import annotations

from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, turns
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT

SILENT = "captions that say nothing, or are no text"
UNREADABLE = "lines that are no UTF-8, or too long"
NO_ADDRESS = "captions without the address of a picture"
# what a detailed caption is asked for with, where a set does not say
DETAILED_PROMPT = "describe the picture in detail"


def captioned(id: str, picture: Picture, caption: str, prompt: str = CAPTION_PROMPT) -> Entry | Skipped:
    """An entry of one caption; the white space around it is left out."""
    caption = caption.strip()
    return Entry(id, picture, turns([(prompt, caption)])) if caption else Skipped(id, SILENT)


def at_address(id: str, address: str, caption: str) -> Entry | Skipped:
    """An entry of one caption whose picture is to be fetched; it gets the name ``id``, and folders of a thousand files each."""
    if not address.strip():
        return Skipped(id, NO_ADDRESS)
    return captioned(id, Picture("url", (address.strip(),), f"{numbered_folder(id)}{{suffix}}"), caption)


def numbered_folder(id: str) -> str:
    """The name of a picture without its suffix, in a folder that is named after its number, if it has one, by thousands."""
    digits = id.rpartition("_")[2]
    return f"{digits[:-3]}/{id}." if digits.isdecimal() and len(digits) > 3 else f"{id}."
