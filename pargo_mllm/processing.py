"""ParGoProcessor: pictures and text in, model inputs out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin

from pargo_mllm.auto_map import PROCESSOR_FILE, NamesItsClasses, name_classes
from pargo_mllm.data.pictures import check_size, load_picture
from pargo_mllm.vision.tiling import cut_tiles, tile_grid


class ParGoProcessor(NamesItsClasses, ProcessorMixin):
    """An image processor and a tokenizer in one; every ``image_token`` of a text becomes ``num_image_tokens`` of them.

    Args:
        image_processor: any of transformers' (CLIP's and SigLIP's are what the encoders need).
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
        """What the encoder gets of at least one RGB picture: pixels ``[tiles, 3, s, s]``, and tiles a picture, int64
        ``[pictures]``.

        Raises:
            PictureError: for a picture that is too small or too large.
        """
        for picture in pictures:
            check_size(picture.size, "a picture")
        tiles, counts = (list(pictures), [1] * len(pictures)) if self.max_tiles == 1 else self._cut(pictures)
        return self.image_processor(tiles, return_tensors="pt")["pixel_values"], torch.tensor(counts)

    def _cut(self, pictures) -> tuple[list[Image.Image], list[int]]:
        side = self.tile_side()
        tiles, counts = [], []
        for picture in pictures:
            if not isinstance(picture, Image.Image):
                raise TypeError(
                    f"images holds a {type(picture).__name__}; tiles are cut from PIL pictures: use Image.fromarray."
                )
            cut = cut_tiles(picture.convert("RGB"), side, self.max_tiles, self.overview_tile)
            tiles += cut
            counts.append(len(cut))
        return tiles, counts

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes."""
        return [*super().model_input_names, *(["tile_counts"] if self.max_tiles > 1 else [])]

    def prompts(self, conversations: list[list[dict[str, Any]]]) -> BatchFeature:
        """Inputs that ask for the next answer in each of several conversations, padded on the left.

        Args:
            conversations: messages in transformers' form; a picture is a part ``{"type": "image", "image": picture}``, as a
                PIL picture or a file.

        Raises:
            ValueError: if the chat template refuses a conversation, or texts and pictures do not match.
        """
        texts: Any = [self._prompt(messages) for messages in conversations]
        pictures = [
            [
                part["image"]
                for message in messages
                if not isinstance(message["content"], str)
                for part in message["content"]
                if part["type"] == "image"
            ]
            for messages in conversations
        ]
        # the template begins the text itself
        return self(
            text=texts,
            images=pictures if any(pictures) else None,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _prompt(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self.apply_chat_template(messages, add_generation_prompt=True)
        except (TemplateError, ArithmeticError, LookupError, TypeError) as error:
            # a template is a program, of whoever made the folder
            raise ValueError(f"the chat template refuses the conversation: {type(error).__name__} {error}") from error

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
        """Open pictures that are given as files, before anything else looks at them."""
        return super().prepare_inputs_layout(images=_opened(images), text=text, videos=videos, audio=audio, **kwargs)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Refuse pictures that are too small or too large, and texts that do not match them, naming the sample."""
        for picture in [] if images is None else make_flat_list_of_images(images):
            if isinstance(picture, Image.Image):
                check_size(picture.size, "a picture")
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


def _opened(images: Any) -> Any:
    """Files read as pictures from strangers, the nesting kept."""
    if isinstance(images, (list, tuple)):
        return [_opened(image) for image in images]
    if isinstance(images, os.PathLike) or (isinstance(images, str) and not images.startswith(("http://", "https://", "data:"))):
        return load_picture(images)
    return images
