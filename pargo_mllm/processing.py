"""ParGoProcessor: pictures and text in, model inputs out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin

from pargo_mllm.auto_map import PROCESSOR_FILE, NamesItsClasses, name_classes
from pargo_mllm.data.feeding.chat_format import ChatFormat, ConversationError
from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.vision.framing import OBLONG, SQUARE, smallest_part
from pargo_mllm.vision.tiling import cut_tiles, tile_grid

# of a side that an image processor makes
_MOST_PIXELS = 4096


class ParGoProcessor(NamesItsClasses, ProcessorMixin):
    """An image processor and a tokenizer in one; every ``image_token`` of a text becomes ``num_image_tokens`` of them.

    Args:
        image_processor: any of transformers' (CLIP's and SigLIP's are what the encoders need). One that crops is kept as it is,
            with a warning that says how much of a picture it shows: a model may be trained so.
        tokenizer: one that has ``image_token`` as a single token.
        num_image_tokens: how many tokens the projector gives for a picture: ``ParGoConfig.num_image_tokens``.
        max_tiles: 1 gives the encoder every picture at its own size. More: a larger or non-square picture becomes up to so many
            tiles of that size (``pargo_mllm.vision.tiling``), and ``tile_counts`` says how many each picture has.
        overview_tile: put the whole picture in front of its tiles, one tile more than ``max_tiles``.
        tokens_per_tile: every tile becomes ``num_image_tokens`` tokens, not every picture: not
            ``ParGoProjectorConfig.reads_tiles_together``.
        image_token: the placeholder that stands for one picture in a text.
        chat_template: the tokenizer's own when None. For training it must mark what the assistant says with
            ``{% generation %}``.

    Raises:
        ValueError: if the tokenizer does not know ``image_token``, or ``num_image_tokens`` is not positive. Calling it
            with texts and pictures that do not match raises ValueError and names the sample.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        num_image_tokens: int = 304,
        image_token="<image>",
        chat_template=None,
        max_tiles: int = 1,
        overview_tile: bool = False,
        tokens_per_tile: bool = False,
    ):
        if max_tiles < 1:
            raise ValueError(f"max_tiles={max_tiles} must be at least 1; 1 cuts no picture.")
        if num_image_tokens < 1:
            raise ValueError(f"num_image_tokens={num_image_tokens} must be at least 1: take ParGoConfig.num_image_tokens.")
        ids = tokenizer.encode(image_token, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(
                f"image_token={image_token!r} is not one token of this tokenizer; "
                f"tokenizer.add_special_tokens({{'additional_special_tokens': [{image_token!r}]}}) adds it "
                "(then resize the model's embeddings)."
            )
        self.num_image_tokens = num_image_tokens
        self.max_tiles = max_tiles
        self.overview_tile = overview_tile
        self.tokens_per_tile = tokens_per_tile
        self.image_token = image_token
        self.image_token_id = ids[0]
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self._say_what_is_cut_off()

    def _say_what_is_cut_off(self) -> None:
        sizes = [dict(getattr(self.image_processor, name, None) or {}) for name in ("size", "crop_size")]
        if any(
            not isinstance(value, int) or value > _MOST_PIXELS for size in sizes for value in size.values() if value is not None
        ):
            # no encoder's; what opens a folder refuses it
            return
        part = smallest_part(self.image_processor, OBLONG if self.max_tiles == 1 else SQUARE)
        if part < 1:
            shape = "a picture four times as long as wide" if self.max_tiles == 1 else "a tile"
            warnings.warn(
                f"{type(self.image_processor).__name__} crops: of {shape} the encoder sees the middle {100 * part:.0f} %. "
                "Boxes and what is asked about places refer to whole pictures; pargo_mllm.vision.framing.stretched gives an "
                "image processor that cuts nothing off.",
                stacklevel=3,
            )

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """As in transformers. A text that begins with the token that begins texts gets no second one."""
        first = text[0] if isinstance(text, (list, tuple)) and text else text
        begins = self.tokenizer.bos_token
        if begins and isinstance(first, str) and first.startswith(begins):
            kwargs.setdefault("add_special_tokens", False)
        return super().__call__(images=images, text=text, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(cls, source, processor_dict=None, **kwargs):
        """As transformers does it, with pictures read by PIL unless ``backend`` says otherwise.

        Where torchvision is installed transformers takes its resizing, whose pixels differ: what a model sees, and what it was
        trained on, must not depend on that.
        """
        arguments = super()._get_arguments_from_pretrained(source, processor_dict, **kwargs)
        if "backend" not in kwargs:
            arguments[cls.get_attributes().index("image_processor")] = AutoImageProcessor.from_pretrained(
                source, backend="pil", **kwargs
            )
        return arguments

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers does it; the folder says where the class is (:mod:`pargo_mllm.auto_map`)."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        name_classes(Path(save_directory), PROCESSOR_FILE)
        return files

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """The text that one picture's placeholder becomes."""
        tiles = int(image_inputs["tile_counts"][image_idx]) if "tile_counts" in image_inputs else 1
        return self.image_token * self.num_placeholders(tiles)

    def num_placeholders(self, tiles: int) -> int:
        """How many image tokens a picture of so many tiles becomes."""
        return self.num_image_tokens * (tiles if self.tokens_per_tile else 1)

    def tile_side(self) -> int:
        """Side of a tile in pixels: what the image processor gives the encoder.

        Raises:
            ValueError: if that is not a square.
        """
        cropped = getattr(self.image_processor, "do_center_crop", False)
        size = dict(self.image_processor.crop_size if cropped else self.image_processor.size)
        edge = size.get("shortest_edge")
        height, width = size.get("height") or edge, size.get("width") or edge
        if height is None or height != width:
            raise ValueError(f"the image processor's size {size} is no square, which max_tiles={self.max_tiles} needs.")
        return height

    def _process_images(self, images, **kwargs):
        if self.max_tiles == 1:
            return super()._process_images(images, **kwargs)
        tiles, counts = self._cut(make_flat_list_of_images(images))
        processed = BatchFeature({**self.image_processor(tiles, **kwargs), "tile_counts": torch.tensor(counts)})
        return processed, [self.replace_image_token(processed, index) for index in range(len(counts))]

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder gets of at least one picture: pixels ``[tiles, 3, s, s]``, and tiles a picture, int64
        ``[pictures]``.

        Raises:
            PictureError: for a picture that is too small or too large.
        """
        shown = [load_picture(picture) for picture in pictures]
        tiles, counts = (shown, [1] * len(shown)) if self.max_tiles == 1 else self._cut(shown)
        return self.image_processor(tiles, return_tensors="pt")["pixel_values"], torch.tensor(counts)

    def _cut(self, pictures: Sequence[Image.Image]) -> tuple[list[Image.Image], list[int]]:
        side = self.tile_side()
        tiles, counts = [], []
        for picture in pictures:
            cut = cut_tiles(picture, side, self.max_tiles, self.overview_tile)
            tiles += cut
            counts.append(len(cut))
        return tiles, counts

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes."""
        return [*super().model_input_names, *(["tile_counts"] if self.max_tiles > 1 else [])]

    @property
    def chat_format(self) -> ChatFormat:
        """The tokenizer with the chat template.

        Raises:
            ConversationError: without a chat template.
        """
        if not isinstance(self.chat_template, str):
            raise ConversationError("the processor has no chat template; give it one: processor.chat_template = …")
        return ChatFormat(self.tokenizer, self.chat_template, self.image_token)

    def apply_chat_template(self, conversation, chat_template: str | None = None, **kwargs):  # type: ignore[override]
        """As in transformers; a template for text alone takes messages with pictures too, each as the image token."""
        if chat_template is None and isinstance(self.chat_template, str):
            chat_template = self.chat_format.template
        return super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)

    def prompts(self, conversations: list[list[dict[str, Any]]]) -> BatchFeature:
        """Inputs that ask for the next answer in each of several conversations, padded on the left.

        What people wrote is text: control tokens in it are spelled out, never obeyed.

        Args:
            conversations: messages in transformers' form; a picture is a part ``{"type": "image", "image": picture}``, or with
                ``path``, ``url`` or ``base64`` in place of ``image``, and anything that
                :func:`~pargo_mllm.data.pictures.load_picture` opens.

        Raises:
            ConversationError: if a text holds the image token, for which there is no picture, or the template refuses it.
        """
        rows = []
        shown: list[Any] = []
        for index, messages in enumerate(conversations):
            ids, pictures = self.chat_format.prompt_tokens(messages), _shown_in(messages)
            if ids.count(self.image_token_id) != len(pictures):
                raise ConversationError(
                    f"sample {index} has {ids.count(self.image_token_id)} {self.image_token} in its text and {len(pictures)} "
                    "pictures; they must be equal: a picture is a part of a message, not a word in its text."
                )
            rows.append(ids)
            shown += pictures
        processed, counts = self._processed_pictures(shown)
        tiles = iter(counts)

        def expanded(token: int) -> list[int]:
            return [token] * (self.num_placeholders(next(tiles)) if token == self.image_token_id else 1)

        rows = [[token for one in ids for token in expanded(one)] for ids in rows]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        return BatchFeature({**padded, **processed})

    def _processed_pictures(self, pictures: list[Any]) -> tuple[dict[str, Any], list[int]]:
        """What the model takes of the pictures of a prompt, and the tiles of each."""
        if not pictures:
            return {}, []
        # one each: a batch in a part would be pictures without a place
        images, *_ = self.prepare_inputs_layout(images=[load_picture(picture) for picture in pictures])
        self.validate_inputs(images=images)
        processed, _ = self._process_images(images, return_tensors="pt")
        counts = processed["tile_counts"].tolist() if "tile_counts" in processed else [1] * len(pictures)
        return dict(processed), counts

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        """What serving engines ask: tokens and rows of pixels of pictures of given (height, width)."""
        if image_sizes is None:
            return MultiModalData()
        tiles = [self.num_tiles(*size) for size in image_sizes]
        tokens = [self.num_placeholders(count) for count in tiles]
        return MultiModalData(num_image_tokens=tokens, num_image_patches=tiles)

    def num_tiles(self, height: int, width: int) -> int:
        """How many tiles a picture of ``height x width`` pixels becomes."""
        if self.max_tiles == 1:
            return 1
        rows, columns = tile_grid(width, height, self.tile_side(), self.max_tiles)
        return rows * columns + (self.overview_tile and rows * columns > 1)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Open all pictures, whatever they are given as, before anything else looks at them."""
        rescaled = kwargs.get("do_rescale", (kwargs.get("images_kwargs") or {}).get("do_rescale"))
        if images is not None and rescaled is False:
            raise PictureError(
                "do_rescale=False: every picture has 8 bits a channel here, one that was given as floats in 0...1 too, and is "
                "rescaled after that; leave do_rescale out, or call processor.image_processor itself."
            )
        images = None if images is None else _opened(images)
        # samples without pictures, all of them
        if isinstance(images, list) and not any(images):
            images = None
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Refuse texts that do not match the pictures, naming the sample."""
        if text is not None and all(isinstance(sample, str) for sample in text):
            self._check_counts(images, text)
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _check_counts(self, images, text: list[str]) -> None:
        wanted = [sample.count(self.image_token) for sample in text]
        nested = isinstance(images, (list, tuple)) and len(images) > 0 and isinstance(images[0], (list, tuple))
        if nested:
            if len(images) != len(text):
                raise ValueError(f"images holds lists for {len(images)} samples and text {len(text)} samples; give one each.")
            given = [len(pictures) for pictures in images]
            for index, (n_placeholders, n_pictures) in enumerate(zip(wanted, given, strict=True)):
                if n_placeholders != n_pictures:
                    raise ValueError(
                        f"sample {index} has {n_placeholders} {self.image_token} in its text and {n_pictures} pictures; they "
                        f"must be equal. Its text begins {text[index][:60]!r}."
                    )
            return
        total = 0 if images is None else len(list(make_flat_list_of_images(images)))  # type: ignore[arg-type]
        if sum(wanted) != total:
            counts = ", ".join(f"sample {index}: {count}" for index, count in enumerate(wanted[:8]))
            raise ValueError(
                f"the texts hold {sum(wanted)} {self.image_token} ({counts}{', …' if len(wanted) > 8 else ''}) for {total} "
                "pictures; they must be equal. A list of lists of pictures, one list a sample, says which one is wrong."
            )


def _opened(images: Any, within: int = 0) -> Any:
    """Pictures as they are shown, the nesting kept: a picture, a list, or a list a sample; a batch in one array is a list."""
    many = isinstance(images, (list, tuple)) or (getattr(images, "ndim", 0) == 4 and len(images) > 0)
    # what is nested deeper, or a batch of none, is no picture: it says so
    return [_opened(image, within + 1) for image in images] if many and within < 2 else load_picture(images)


def _shown_in(messages: list[dict[str, Any]]) -> list[Any]:
    """What a conversation gives as its pictures, under the names that transformers knows."""
    found = []
    for message in messages:
        for part in message.get("content") or ():
            if isinstance(part, dict) and part.get("type") == "image":
                given = [part[key] for key in ("image", "url", "path", "base64") if part.get(key) is not None]
                if len(given) != 1:
                    raise PictureError(
                        f"a part of type image has {len(given)} pictures; it must have one, as image, path, url or base64."
                    )
                found += given
            elif isinstance(part, dict) and part.get("type") == "image_url":
                url = part.get("image_url")
                found.append(url.get("url") if isinstance(url, dict) else url)
    return found
