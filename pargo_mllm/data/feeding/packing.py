"""Several conversations in one sequence: nothing leaks between them.

A document is what stands in a row as if it stood there alone. Conversations about the same pictures may be one document: the
tokens up to the end of the last picture are its shared prefix, and every conversation goes on behind it as if the others were
not there. Its positions restart after the prefix, and it sees the prefix and itself only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from pargo_mllm.data.feeding.conversations import ConversationError, EncodedConversation

IGNORED = -100
SHARED = 0
PADDING = -1


@dataclass(frozen=True)
class PackedSequence:
    """One row before padding: int64 ``[L]`` each.

    ``position_ids`` restart with every document. ``documents`` counts from 0; ``segments`` is 0 in a document's shared prefix
    and k in the k-th conversation (from 1). ``labels`` is :data:`IGNORED` except where the assistant speaks, and where a
    document begins: nothing stands in front of its first token.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    documents: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_documents(self) -> int:
        """How many documents it holds. Each of those that :func:`pack` or :func:`alone` made of an example shows all pictures
        of the example."""
        return int(self.documents[-1]) + 1

    def take(self, index: torch.Tensor) -> PackedSequence:
        """The tokens of ``index``, as tensors are indexed."""
        return PackedSequence(*(getattr(self, field.name)[index] for field in fields(self)))


def pack(conversations: Sequence[EncodedConversation], image_token_id: int) -> PackedSequence:
    """Pack conversations about the same pictures, or about none.

    They are one document, the pictures shown once, unless an answer stands in the tokens they share or directly behind them:
    then each is a document of its own, for what is predicted from shared tokens counts once a conversation.

    Raises:
        ConversationError: without conversations, or if several differ in front of the last picture's end.
    """
    if not conversations:
        raise ConversationError("there are no conversations to pack: leave out samples without captions or questions.")
    first = conversations[0]
    prefix = _prefix(first, image_token_id)
    columns = [(token, position, 0, SHARED, first.is_answer[position]) for position, token in enumerate(prefix)]
    for segment, conversation in enumerate(conversations, start=1):
        if _prefix(conversation, image_token_id) != prefix:
            raise ConversationError(
                f"conversation {segment - 1} begins otherwise than the first one; conversations packed behind one picture "
                "must be equal up to the picture's end: put the picture before the question."
            )
        columns += [
            (conversation.input_ids[position], position, 0, segment, conversation.is_answer[position])
            for position in range(len(prefix), len(conversation.input_ids))
        ]
    ids, positions, documents, segments, said = torch.tensor(columns, dtype=torch.int64).unbind(1)
    labels = torch.where((said == 1) & (positions > 0), ids, IGNORED)
    packed = PackedSequence(ids, positions, documents, segments, labels)
    # with a prefix, all that is predicted from its tokens
    from_prefix = (positions <= len(prefix)) & (labels != IGNORED)
    shareable = len(conversations) == 1 or not prefix or not from_prefix.any()
    return packed if shareable else join(alone(packed))


def alone(packed: PackedSequence) -> list[PackedSequence]:
    """Every conversation as a document and a sequence of its own, the shared prefix repeated in front of it."""
    sequences = []
    for document in range(packed.num_documents):
        here = packed.documents == document
        conversations = [int(segment) for segment in packed.segments[here].unique() if segment != SHARED] or [SHARED]
        for segment in conversations:
            sequence = packed.take(here & ((packed.segments == SHARED) | (packed.segments == segment)))
            sequences.append(_renumbered(sequence, 0))
    return sequences


def join(sequences: Sequence[PackedSequence]) -> PackedSequence:
    """At least one sequence, one behind the other; the documents of each stay documents of their own."""
    first = 0
    numbered = []
    for sequence in sequences:
        numbered.append(_renumbered(sequence, first))
        first += sequence.num_documents
    return PackedSequence(*(torch.cat([getattr(one, field.name) for one in numbered]) for field in fields(PackedSequence)))


def pad(rows: Sequence[PackedSequence], pad_token_id: int) -> PackedSequence:
    """Pad rows on the right and stack them: every column ``[B, L]``; documents and segments are :data:`PADDING` there."""
    fill = {"input_ids": pad_token_id, "position_ids": 0, "documents": PADDING, "segments": PADDING, "labels": IGNORED}
    return PackedSequence(
        **{
            name: torch.nn.utils.rnn.pad_sequence([getattr(row, name) for row in rows], batch_first=True, padding_value=value)
            for name, value in fill.items()
        }
    )


def pad_packed(rows: Sequence[PackedSequence], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right and stack them.

    Returns:
        ``input_ids``, ``position_ids``, ``labels`` int64 ``[B, L]`` and ``attention_mask`` bool ``[B, 1, L, L]``, True
        where the row's token (third axis) may see the column's (fourth axis).
    """
    padded = pad(rows, pad_token_id)
    return {**model_inputs(padded), "attention_mask": block_mask(padded.documents, padded.segments).unsqueeze(1)}


def model_inputs(padded: PackedSequence) -> dict[str, torch.Tensor]:
    """The columns that the model takes, without a mask."""
    return {"input_ids": padded.input_ids, "position_ids": padded.position_ids, "labels": padded.labels}


def block_mask(documents: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Causal block mask of ``documents`` and ``segments``, int64 ``[B, L]``: bool ``[B, L, L]``.

    A token sees itself and earlier tokens of its own document, those of its segment and of the shared prefix. Padding sees
    padding, so that no row is empty, and nothing else sees it.
    """
    length = segments.shape[1]
    # int32: a comparison per pair of tokens, and there are many pairs
    own, prefix = (documents * length + segments).int(), (documents * length + SHARED).int()
    mask = own[:, :, None] == own[:, None, :]
    mask |= prefix[:, :, None] == own[:, None, :]
    mask &= torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return mask


def _renumbered(sequence: PackedSequence, first: int) -> PackedSequence:
    """The same with documents counted from ``first``."""
    columns = {field.name: getattr(sequence, field.name) for field in fields(sequence)}
    return PackedSequence(**{**columns, "documents": sequence.documents - sequence.documents[0] + first})


def _prefix(conversation: EncodedConversation, image_token_id: int) -> tuple[int, ...]:
    """The tokens up to the end of the last picture; none without pictures."""
    ids = conversation.input_ids
    return ids[: len(ids) - ids[::-1].index(image_token_id)] if image_token_id in ids else ()
