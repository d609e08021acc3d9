"""Many questions about the same pictures: each picture is encoded, projected and read once.

What is said to a question does not depend on what else is in the batch, on padding, or on whether its beginning was shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.generation.logits_process import LogitsProcessorList

from pargo_mllm.answering.near_ties import NearTies
from pargo_mllm.answering.prefix_cache import Beginning, joined, padded, positions, read_beginnings
from pargo_mllm.answering.prompts import Prompt
from pargo_mllm.answering.sharing import narrowest_window, what_sharing_changes
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.positions import max_positions
from pargo_mllm.processing import ParGoProcessor

# of the model's own settings, those under which an answer is not the likeliest one, changes with the batch or with the time, or
# does not go with a cache that is there already
_SETTLED: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "max_length": None,
    "max_time": None,
    "prompt_lookup_num_tokens": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "guidance_scale": None,
    "use_cache": True,
    "cache_implementation": None,
    "return_dict_in_generate": False,
}


@dataclass(frozen=True)
class Said:
    """An answer: its text, its tokens with the one that ends it, and how many of them were near ties."""

    text: str
    ids: tuple[int, ...]
    near_ties: int


@dataclass
class _Seen:
    """What is known of a group's pictures: their tokens ``[tokens, text width]``, how many each has, and the beginning."""

    tokens: torch.Tensor | None
    counts: list[int]
    beginning: Beginning | None = None


class Reader:
    """A model that answers prompts, or rates choices, batch by batch; what it has read of a picture serves the next batch too.

    Args:
        share: read what the prompts of a group have in common once. None: where the model gives the same hidden states then
            (:func:`~pargo_mllm.answering.sharing.what_sharing_changes`), which is tried out.

    Attributes:
        shares: whether it does.
        shares_not_because: why it does not, where the model is the reason.
        pictures_read: how many pictures were encoded so far.
    """

    def __init__(self, model: ParGoForConditionalGeneration, processor: ParGoProcessor, share: bool | None = None):
        self.model, self.processor = model, processor
        self.shares_not_because = what_sharing_changes(model) if share is None else None
        self.shares = share if share is not None else self.shares_not_because is None
        self.pictures_read = 0
        if getattr(model.generation_config, "no_repeat_ngram_size", None):
            # padding between a beginning and its rest would break words apart
            self.shares, self.shares_not_because = False, "no_repeat_ngram_size looks at neighbouring tokens"
        self._window = narrowest_window(model)
        self._most = max_positions(model.config.text_config)
        self._seen: dict[str, _Seen] = {}

    def forget(self, but: Iterable[str] = ()) -> None:
        """Let go of all pictures but those of these groups."""
        kept = set(but)
        self._seen = {group: seen for group, seen in self._seen.items() if group in kept}

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt], leads: Mapping[str, int], max_new_tokens: int) -> list[Said]:
        """The likeliest answers, greedily, under the model's own penalties and ends.

        Args:
            leads: of each group, how many of the first ids all of its prompts have in common.

        Raises:
            ConversationError: for a prompt that leaves no room for an answer.
            PictureError: for a picture that cannot be used.
        """
        rows = self._rows(prompts)
        room = [max_new_tokens if self._most is None else min(max_new_tokens, self._most - len(row)) for row in rows]
        if min(room) < 1:
            raise ConversationError(
                f"a prompt has {max(map(len, rows))} tokens and the language model takes {self._most}, its answer included."
            )
        if len(prompts) > 1 and len(set(room)) > 1:
            # each as long as it may be alone
            return [self.answer([prompt], leads, max_new_tokens)[0] for prompt in prompts]
        ids, inputs = self._inputs(prompts, rows, leads, room[0])
        noted = NearTies(self.model.dtype)
        out: Any = self.model.generate(  # type: ignore[misc]
            input_ids=ids,
            **inputs,
            **_SETTLED,
            max_new_tokens=room[0],
            logits_processor=LogitsProcessorList([noted]),
            # of those who stop at words
            tokenizer=self.processor.tokenizer,
        )
        said = [row[: self._length(row)] for row in out[:, ids.shape[1] :].tolist()]
        texts = self.processor.batch_decode(said, skip_special_tokens=True)
        ties = noted.of([len(row) for row in said])
        return [Said(text.strip(), tuple(row), near) for text, row, near in zip(texts, said, ties, strict=True)]

    @torch.inference_mode()
    def losses(self, prompts: Sequence[Prompt], leads: Mapping[str, int]) -> list[float]:
        """Of each prompt, the mean loss of the tokens that are rated, in nats.

        Raises:
            ConversationError: for a prompt longer than the model takes.
            PictureError: for a picture that cannot be used.
        """
        rows = self._rows(prompts)
        if self._most is not None and max(map(len, rows)) > self._most:
            raise ConversationError(
                f"a choice behind its question has {max(map(len, rows))} tokens and the language model takes {self._most}."
            )
        ids, inputs = self._inputs(prompts, rows, leads, 0)
        kept = max(prompt.rated for prompt in prompts) + 1
        mask = inputs["attention_mask"]
        cached = 0 if (cache := inputs.get("past_key_values")) is None else cache.get_seq_length()
        if "inputs_embeds" not in inputs:
            inputs["input_ids"] = ids[:, cached:]
        logits = self.model(
            **inputs, position_ids=positions(mask)[:, cached:], use_cache=cache is not None, logits_to_keep=kept
        ).logits.float()
        losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, -kept + 1 :], reduction="none")
        return [losses[row, -prompt.rated :].mean().item() for row, prompt in enumerate(prompts)]

    def _rows(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids with every picture's placeholders; the pictures are read where they were not."""
        new = {prompt.group: prompt for prompt in prompts if prompt.group not in self._seen}
        self._see(list(new.values()))
        return [self._expanded(prompt.ids, prompt.group) for prompt in prompts]

    def _see(self, prompts: Sequence[Prompt]) -> None:
        opened = [open_picture() for prompt in prompts for open_picture in prompt.pictures]
        tokens: list[torch.Tensor] = []
        if opened:
            pixels, counts = self.processor.encode_pictures(opened)
            given = {} if self.processor.max_tiles == 1 else {"tile_counts": counts.to(self.model.device)}
            projected: Any = self.model.get_image_features(pixels.to(self.model.device), **given).pooler_output
            together = self.model.config.projector_config.reads_tiles_together
            parts = [1] * len(counts) if together else counts.tolist()
            tokens = [part.flatten(0, 1) for part in projected.split(parts)]
            self.pictures_read += len(opened)
        for prompt in prompts:
            own, tokens = tokens[: len(prompt.pictures)], tokens[len(prompt.pictures) :]
            self._seen[prompt.group] = _Seen(torch.cat(own) if own else None, [len(one) for one in own])

    def _expanded(self, ids: Sequence[int], group: str) -> list[int]:
        counts, image = iter(self._seen[group].counts), self.processor.image_token_id
        return [token for one in ids for token in ([one] * next(counts) if one == image else [one])]

    def _inputs(
        self, prompts: Sequence[Prompt], rows: Sequence[list[int]], leads: Mapping[str, int], new_tokens: int
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Ids ``[rows, L]``, and what the model takes beside: a cache of the beginnings, or the embeddings of everything."""
        heads = [self._expanded(prompt.ids[: leads[prompt.group]], prompt.group) for prompt in prompts]
        image = self.processor.image_token_id
        rests = [row[len(head) :] for head, row in zip(heads, rows, strict=True)]
        columns = max(map(len, heads)) + max(map(len, rests)) + new_tokens
        if not self.shares or columns > self._window or not all(heads) or any(image in rest for rest in rests):
            embeddings, mask = padded([self._embedded(row, prompt.group) for row, prompt in zip(rows, prompts, strict=True)])
            return self._padded_ids(rows, rows), {"inputs_embeds": embeddings, "attention_mask": mask}
        self._read(prompts, heads)
        cache, mask = joined([self._beginning(prompt.group) for prompt in prompts])
        rest_ids = self._padded_ids(rests, rows)
        own = [[0] * (rest_ids.shape[1] - len(rest)) + [1] * len(rest) for rest in rests]
        rest_mask = torch.tensor(own, device=mask.device)
        ids = torch.cat([self._padded_ids(heads, rows), rest_ids], 1)
        return ids, {"attention_mask": torch.cat([mask, rest_mask], 1), "past_key_values": cache}

    def _read(self, prompts: Sequence[Prompt], heads: Sequence[list[int]]) -> None:
        """Keep the beginnings of the groups that are new."""
        of = {prompt.group: head for prompt, head in zip(prompts, heads, strict=True)}
        new = {group: head for group, head in of.items() if self._seen[group].beginning is None}
        if new:
            embeddings = [self._embedded(head, group) for group, head in new.items()]
            for group, beginning in zip(new, read_beginnings(self.model.model, embeddings), strict=True):
                self._seen[group].beginning = beginning

    def _beginning(self, group: str) -> Beginning:
        beginning = self._seen[group].beginning
        assert beginning is not None
        return beginning

    def _embedded(self, row: list[int], group: str) -> torch.Tensor:
        """``[tokens, text width]``, the pictures' tokens in their places."""
        ids = torch.tensor([row], device=self.model.device)
        embedded = self.model.get_input_embeddings()(ids)
        tokens = self._seen[group].tokens
        if tokens is not None and self.processor.image_token_id in row:
            embedded = self.model.model.insert_image_tokens(ids, embedded, tokens[None])
        return embedded[0]

    def _padded_ids(self, parts: Sequence[list[int]], rows: Sequence[list[int]]) -> torch.Tensor:
        """Parts of rows, padded on the left by each row's first token: no penalty may fall on a token for padding's sake."""
        longest = max(map(len, parts))
        padded = [[row[0]] * (longest - len(part)) + part for part, row in zip(parts, rows, strict=True)]
        return torch.tensor(padded, device=self.model.device)

    def _length(self, said: list[int]) -> int:
        """Tokens of an answer with its end; what stands behind is padding."""
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        return next((place + 1 for place, token in enumerate(said) if token in ends), len(said))
