"""Several conversations about one picture in one sequence behind one shared picture: nothing leaks between them.

The tokens up to the end of the picture are the shared prefix; every conversation goes on behind it as if it stood there
alone: its positions restart after the prefix, and it sees the prefix and itself only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pargo_mllm.data.conversations import EncodedConversation

IGNORED = -100
SHARED = 0
PADDING = -1


@dataclass(frozen=True)
class PackedSequence:
    """One row before padding: int64 ``[L]`` each.

    ``segments`` is 0 in the shared prefix and k in the k-th conversation (from 1); ``labels`` is :data:`IGNORED` except
    where the assistant speaks.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor


def pack(conversations: list[EncodedConversation], image_token_id: int) -> PackedSequence:
    """Pack conversations about the same picture.

    Raises:
        ValueError: without conversations, without a picture, or if the tokens up to the picture's end differ.
    """
    if not conversations:
        raise ValueError("there are no conversations to pack: leave out samples without captions or questions.")
    prefix = _prefix(conversations[0], image_token_id)
    ids, positions = list(prefix), list(range(len(prefix)))
    segments, labels = [SHARED] * len(prefix), [IGNORED] * len(prefix)
    for segment, conversation in enumerate(conversations, start=1):
        if _prefix(conversation, image_token_id) != prefix:
            raise ValueError(
                f"conversation {segment - 1} begins otherwise than the first one; conversations packed behind one picture "
                "must be equal up to the picture's end: put the picture before the question."
            )
        tail = conversation.input_ids[len(prefix) :]
        ids += tail
        positions += range(len(prefix), len(prefix) + len(tail))
        segments += [segment] * len(tail)
        said = conversation.is_answer[len(prefix) :]
        labels += [token if answer else IGNORED for token, answer in zip(tail, said, strict=True)]
    return PackedSequence(*(torch.tensor(column) for column in (ids, positions, segments, labels)))


def pad_packed(rows: list[PackedSequence], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right and stack them.

    Returns:
        ``input_ids``, ``position_ids``, ``labels`` int64 ``[B, L]`` and ``attention_mask`` bool ``[B, 1, L, L]``, True
        where the row's token (third axis) may see the column's (fourth axis).
    """
    fill = {"input_ids": pad_token_id, "position_ids": 0, "labels": IGNORED, "segments": PADDING}
    batch = {
        name: torch.nn.utils.rnn.pad_sequence([getattr(row, name) for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }
    batch["attention_mask"] = segment_mask(batch.pop("segments")).unsqueeze(1)
    return batch


def segment_mask(segments: torch.Tensor) -> torch.Tensor:
    """Causal block mask of ``segments`` int64 ``[B, L]``: bool ``[B, L, L]``.

    A token sees earlier tokens of its own segment and of the shared prefix, and always itself, so that no row is empty.
    """
    length = segments.shape[1]
    mine, other = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=segments.device)
    return (((mine == other) | (other == SHARED)) & (mine != PADDING) & causal) | itself


def _prefix(conversation: EncodedConversation, image_token_id: int) -> tuple[int, ...]:
    ids = conversation.input_ids
    if image_token_id not in ids:
        raise ValueError("a conversation has no picture; only conversations about a picture can share one.")
    return ids[: len(ids) - ids[::-1].index(image_token_id)]
