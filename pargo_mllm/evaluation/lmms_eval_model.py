"""ParGo as a chat model of lmms-eval. Imported by lmms-eval only, which must be installed.

lmms-eval depends on torchvision; where that cannot be imported, give lmms-eval an environment of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.model import lmms
from tqdm.auto import tqdm

from pargo_mllm.answering import answer, generation_settings
from pargo_mllm.loading import open_model

# of a task's generation settings, those that generate() takes as they are
_PASSED_ON = ("max_new_tokens", "num_beams", "top_p", "top_k", "repetition_penalty")
_DEFAULT_NEW_TOKENS = 1024


class ParGoLmmsEval(lmms):
    """Generates answers in batches; what is generated does not depend on what else is in the batch.

    Args:
        pretrained: folder of model and processor.
        batch_size: requests at a time.
        device: "cuda", "cpu" or as accelerate chooses where None.
        attn_implementation: as from_pretrained takes it.
        max_batch_size: lmms-eval passes it to every model; not used.

    Raises:
        ValueError: for a batch size that is no positive number.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        attn_implementation: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r} must be a positive number; sizes are not searched for.")
        self.batch_size = int(batch_size)
        self.accelerator = Accelerator(cpu=device == "cpu")
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device  # where lmms-eval gathers what its processes have
        model, self.processor = open_model(Path(pretrained), dtype="auto", attn_implementation=attn_implementation)
        self.model = model.to(self.device).eval()

    def generate_until(self, requests) -> list[str]:
        """One answer for each request, in the order of the requests."""
        answers: list[str] = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[2], sort_keys=True, default=str), []).append(index)
        batches = [
            indices[first : first + self.batch_size]
            for indices in alike.values()
            for first in range(0, len(indices), self.batch_size)
        ]
        for batch in tqdm(batches, desc="ParGo answers", disable=self.rank != 0, dynamic_ncols=True):
            settings = requests[batch[0]].args[2]
            for index, text in zip(batch, self._answer([requests[index] for index in batch], settings), strict=True):
                answers[index] = text
                self.cache_hook.add_partial("generate_until", (requests[index].args[0], settings), text)
        return answers

    def _answer(self, requests, settings: dict[str, Any]) -> list[str]:
        conversations = []
        for request in requests:
            _, doc_to_messages, _, doc_id, task, split = request.args
            conversations.append([_message(message) for message in doc_to_messages(self.task_dict[task][split][doc_id])])
        options = {name: settings[name] for name in _PASSED_ON if settings.get(name) is not None}
        tokens, temperature = options.pop("max_new_tokens", _DEFAULT_NEW_TOKENS), settings.get("temperature") or 0
        generation = generation_settings(tokens, temperature, **options)
        answers = answer(self.model, self.processor, conversations, **generation)
        return [_cut(text, settings.get("until") or ()) for text in answers]

    def loglikelihood(self, requests):
        """Not offered."""
        raise NotImplementedError("pargo runs tasks of output_type generate_until; loglikelihood is not offered.")

    def generate_until_multi_round(self, requests):
        """Not offered."""
        raise NotImplementedError("pargo runs tasks of output_type generate_until; several rounds are not offered.")


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message of lmms-eval, whose pictures stand under "url", in transformers' form."""
    content = message["content"]
    if isinstance(content, str):
        return {"role": message["role"], "content": content}
    parts = []
    for part in content:
        if part["type"] == "image":
            parts.append({"type": "image", "image": part.get("url", part.get("image"))})
        elif part["type"] == "text":
            parts.append({"type": "text", "text": part["text"]})
        else:
            raise ValueError(f"a message holds {part['type']!r}; pargo sees pictures and text only.")
    return {"role": message["role"], "content": parts}


def _cut(text: str, until: str | list[str] | tuple[str, ...]) -> str:
    """The text in front of the first stop string."""
    for stop in (until,) if isinstance(until, str) else until:
        if stop:
            text = text.split(stop, 1)[0]
    return text
