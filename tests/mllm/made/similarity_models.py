"""Models that compare pictures with texts, in miniature: real classes of transformers, with tokenizers of their own kinds."""

from __future__ import annotations

import re

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from pargo_mllm.data.scenes.layout import captions, scene_and_picture

SIDE, PATCH = 56, 14
WORDS = ("a", "big", "small", "red", "blue", "dog", "cat", "and", "of", "the", ".", "photograph", "end", "text")
_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION = {**_TEXT, "image_size": SIDE, "patch_size": PATCH}


def clip_tokenizer(texts, longest=77):
    """CLIP's BPE over bytes; it holds every byte, as CLIP's does, and merges that spell the words of ``texts``.

    The trainer of tokenizers breaks ties at random, and tests would be another's each time.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = {}
    for word in sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())}):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(pieces)):
            merges["".join(pieces[:end]), pieces[end]] = None
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=longest)


def bert_tokenizer(texts=WORDS, longest=40):
    """WordPiece with [CLS] in front and [SEP] at the end: BLIP's, and Chinese CLIP's."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in texts for word in text.split()} | {"."})]
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=longest)


def unigram_tokenizer(texts=WORDS, longest=16):
    """Pieces as sentencepiece has them, with </s> at the end and for what fills up: SigLIP's."""
    words = sorted({f"▁{word}" for text in texts for word in text.split()})
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scored = [(token, 0.0) for token in special] + [(word, -1.0) for word in words] + [("▁", -5.0)]
    scored += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz."]
    unigram = Tokenizer(models.Unigram(scored, unk_id=3))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=longest,
        model_input_names=["input_ids"],
    )


def clip_config(tokenizer, width=64, longest=77):
    both = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {
        **both,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": longest,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPConfig(text_config=text, vision_config={**both, "image_size": SIDE, "patch_size": PATCH}, projection_dim=width)


def clip_pixels():
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def save(folder, model, tokenizer, image_processor):
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(folder)
    return folder


def random_clip(folder, texts=WORDS, seed=0):
    """A CLIP that was never trained."""
    tokenizer = clip_tokenizer(texts)
    torch.manual_seed(seed)
    return save(folder, CLIPModel(clip_config(tokenizer)).eval(), tokenizer, clip_pixels())


def coarse(scene):
    """What the big thing is, and the photograph, in two wordings."""
    told = captions(scene)[0].answer
    first, _, second = told.partition(" and ")
    return (told, f"{second} and {first}") if second else (told, told)


def trained_clip(folder, count=2000, steps=120, batch=64):
    """A CLIP that has learnt from ``count`` scenes of the training split what their coarse captions mean."""
    scenes = [scene_and_picture("train", 0, index) for index in range(count)]
    told = [coarse(scene) for scene, _ in scenes]
    tokenizer = clip_tokenizer([text for pair in told for text in pair])
    pixels = clip_pixels()(images=[picture for _, picture in scenes], return_tensors="pt")["pixel_values"]
    torch.manual_seed(0)
    model = CLIPModel(clip_config(tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    read = [tokenizer([f"{pair[way]}." for pair in told], padding=True, return_tensors="pt") for way in (0, 1)]
    for step in range(steps):
        chosen = torch.randperm(count)[:batch]
        texts = {name: tensor[chosen] for name, tensor in read[step % 2].items()}
        same = (texts["input_ids"][:, None] == texts["input_ids"][None]).all(-1).float()
        # another scene with the same caption is no wrong answer
        wanted = same / same.sum(-1, keepdim=True)
        made = model(**texts, pixel_values=pixels[chosen])
        loss = cross_entropy(made.logits_per_image, wanted) + cross_entropy(made.logits_per_text, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return save(folder, model.eval(), tokenizer, clip_pixels())


def siglip_pixels():
    return SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def of_kind(kind, folder, seed=0):
    """A model of a kind with random weights, its tokenizer and its image processor, saved; the model and the tokenizer."""
    torch.manual_seed(seed)
    tokenizer, config = _CONFIGS[kind]()
    name = {"blip": "BlipForImageTextRetrieval", "blip-2": "Blip2ForImageTextRetrieval"}.get(
        kind, type(config).__name__.replace("Config", "Model")
    )
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # what begins at zero or one would hide what it is multiplied with
            parameter.add_(0.1 * torch.randn_like(parameter))
    pixels = (
        transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16) if kind == "siglip2" else siglip_pixels()
    )
    save(folder, model, tokenizer, clip_pixels() if kind == "clip" else pixels)
    return model, tokenizer


def _clip():
    tokenizer = clip_tokenizer(WORDS)
    return tokenizer, clip_config(tokenizer, 32, 20)


def _siglip():
    tokenizer = unigram_tokenizer()
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32}
    return tokenizer, transformers.SiglipConfig(text_config=text, vision_config=_VISION)


def gemma_tokenizer(longest=16):
    """SigLIP 2's: pieces of BPE, single letters here, and <eos> at the end."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz."]
    return transformers.Siglip2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        add_eos_token=True,
        padding_side="right",
        model_max_length=longest,
        model_input_names=["input_ids"],
    )


def _siglip2():
    tokenizer = gemma_tokenizer(64)
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32}
    vision = {**_TEXT, "patch_size": PATCH, "num_patches": 16}
    return tokenizer, transformers.Siglip2Config(text_config=text, vision_config=vision)


def _chinese_clip():
    tokenizer = bert_tokenizer()
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 40, "pad_token_id": 0}
    return tokenizer, transformers.ChineseCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)


def xlm_r_tokenizer(texts=WORDS, longest=30):
    """XLM-R's pieces, <s> in front and </s> at the end."""
    scored = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    scored += [(f"▁{word}", -1.0) for word in sorted({word for text in texts for word in text.split()})]
    scored += [("▁", -5.0), *((letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz."), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=scored, model_max_length=longest)


def _altclip():
    tokenizer = xlm_r_tokenizer()
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 22, "pad_token_id": 1, "project_dim": 24}
    return tokenizer, transformers.AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)


def _metaclip_2():
    tokenizer = xlm_r_tokenizer()
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 20, "eos_token_id": 2, "pad_token_id": 1}
    return tokenizer, transformers.MetaClip2Config(text_config=text, vision_config=_VISION, projection_dim=24)


def _blip():
    tokenizer = bert_tokenizer()
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 40, "encoder_hidden_size": 32, "pad_token_id": 0}
    config = transformers.BlipConfig(text_config=text, vision_config=_VISION, image_text_hidden_size=24)
    return tokenizer, config


def _blip_2():
    tokenizer = bert_tokenizer()
    qformer = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "encoder_hidden_size": 32,
        "cross_attention_frequency": 1,
        "use_qformer_text_input": True,
    }
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config=qformer,
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 50,
        },
        num_query_tokens=4,
        image_text_hidden_size=24,
    )
    return tokenizer, config


_CONFIGS = {
    "clip": _clip,
    "metaclip_2": _metaclip_2,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "altclip": _altclip,
    "chinese_clip": _chinese_clip,
    "blip": _blip,
    "blip-2": _blip_2,
}
KINDS = tuple(_CONFIGS)
