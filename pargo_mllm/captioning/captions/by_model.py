"""Captions from a model folder of ours, piece by piece, by any number of workers: each opens the model once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import transformers
from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image

from pargo_mllm.answering.prompts import Prompt
from pargo_mllm.answering.reader import Reader, Said
from pargo_mllm.captioning.captions.asked import Asked, CaptionError
from pargo_mllm.captioning.captions.checked import checked
from pargo_mllm.captioning.captions.job import Job
from pargo_mllm.captioning.captions.looking import Seen, looked_at, opened
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.data.preparation.entries import Entry
from pargo_mllm.data.preparation.picture_places import PicturePlaces
from pargo_mllm.data.preparation.pieces import Piece
from pargo_mllm.endpoint import Answer, Failure
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.usage import Usage
from pargo_mllm.jobs import Engine
from pargo_mllm.loading import chosen_device, open_model

# below the folder of the job
SAID = "said-{piece}.sqlite"


@dataclass(frozen=True)
class Model:
    """A model folder, and how it is run.

    Args:
        batch_size: pictures at a time; halved when memory runs out.
    """

    folder: Path
    batch_size: int = 8
    device: str = "auto"
    dtype: str = "auto"


def caption(job: Job, model: Model, engine: Engine, retry_failed: bool = False) -> None:
    """Have every picture of a job described that has no caption. What is said is kept batch by batch.

    Raises:
        UserError: if the model cannot be opened, or memory does not suffice for one picture.
    """
    work = partial(_caption_piece, asked=job.asked, model=model, retry_failed=retry_failed)
    for _ in engine.map(work, job.pieces, "captions"):
        pass


def said_in(job: Job) -> list[Path]:
    """Files of what is known of a job's captions."""
    return [job.work / SAID]


@dataclass(frozen=True)
class _Shown:
    key: str
    name: str
    picture: Image.Image


def _caption_piece(piece: Piece, asked: Asked, model: Model, retry_failed: bool) -> None:
    kept = KeptAnswers(piece.work / SAID.format(piece=f"{piece.number:06d}"))
    try:
        size, waiting = model.batch_size, []
        for shown in _shown(piece, asked, kept, retry_failed):
            waiting.append(shown)
            if len(waiting) >= size:
                size, waiting = _answered(waiting, asked, model, kept, size), []
        if waiting:
            _answered(waiting, asked, model, kept, size)
    finally:
        kept.close()


def _shown(piece: Piece, asked: Asked, kept: KeptAnswers, retry_failed: bool) -> Iterator[_Shown]:
    """What a piece has that is not described yet, equal pictures once; opened one after the other."""
    places, before = PicturePlaces(piece, ()), set()
    for entry, seen in looked_at(piece):
        if not isinstance(seen, Seen):
            continue
        assert isinstance(entry, Entry)
        key = asked.key(seen.digest)
        if key in before or kept.get(key) is not None or (kept.failure(key) is not None and not retry_failed):
            continue
        before.add(key)
        try:
            yield _Shown(key, entry.id, load_picture(opened(entry, seen, places), entry.id))
        except PictureError as error:
            kept.keep_failure(key, Failure(str(error), kind="picture"))


def _answered(shown: list[_Shown], asked: Asked, model: Model, kept: KeptAnswers, size: int) -> int:
    """Keep what the model says; returns how many pictures at a time it can be shown."""
    reader = _reader(model)
    done = 0
    while done < len(shown):
        batch = shown[done : done + size]
        try:
            said = _say(reader, batch, asked)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            said = None
        reader.forget()
        if said is None:
            if size == 1:
                raise CaptionError("memory does not suffice for one picture: use --dtype bfloat16, or another device.")
            size //= 2
            print(f"memory ran out; the batch size is {size} from here on", file=sys.stderr)
            continue
        for one, answer in zip(batch, said, strict=True):
            _keep(kept, one.key, answer, reader, asked)
        done += len(batch)
    return size


def _say(reader: Reader, batch: list[_Shown], asked: Asked) -> list[Said]:
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.prompt}]}]
    try:
        ids = tuple(reader.processor.chat_format.prompt_tokens(question))
        prompts = [Prompt(ids, (partial(_itself, one.picture),), one.key) for one in batch]
        return reader.answer(prompts, {one.key: 0 for one in batch}, asked.longest)
    except ConversationError as error:
        raise CaptionError(f"the prompt cannot be asked: {error}") from error


def _keep(kept: KeptAnswers, key: str, said: Said, reader: Reader, asked: Asked) -> None:
    usage = Usage(0, len(said.ids))
    ends = reader.model.generation_config.eos_token_id
    is_cut = not said.ids or said.ids[-1] not in (ends if isinstance(ends, list) else [ends])
    if is_cut:
        kept.keep_failure(key, Failure(f"cut off after {len(said.ids)} tokens", True, "length", usage))
    elif not said.text:
        kept.keep_failure(key, Failure("empty", True, "empty", usage))
    else:
        caption = checked(Answer(said.text, asked.model, usage))
        if isinstance(caption, Answer):
            kept.keep(key, caption)
        else:
            kept.keep_failure(key, caption)


def _itself(picture: Image.Image) -> Image.Image:
    return picture


@lru_cache(maxsize=1)
def _reader(model: Model) -> Reader:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    opened_model, processor = open_model(model.folder, dtype=model.dtype)
    # each picture is asked about once: nothing is shared
    return Reader(opened_model.eval().to(chosen_device(model.device)), processor, share=False)
