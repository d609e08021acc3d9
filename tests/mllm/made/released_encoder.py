"""EVA-02-CLIP's vision encoder in miniature, as its release stores it."""

import torch

WIDTH, HEADS, INNER, PATCH, SIDE, GRID, DEPTH = 16, 2, 20, 4, 12, 3, 2


def released_encoder():
    """A checkpoint of random fp64 numbers under the released names; no bias is zero, no gain is one."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator) * 0.4

    tensors = {
        "visual_encoder.cls_token": random(1, 1, WIDTH),
        "visual_encoder.pos_embed": random(1, 1 + GRID**2, WIDTH),
        "visual_encoder.patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH),
        "visual_encoder.patch_embed.proj.bias": random(WIDTH),
        "visual_encoder.norm.weight": random(WIDTH),
        "visual_encoder.norm.bias": random(WIDTH),
        "visual_encoder.head.weight": random(5, WIDTH),
        "ln_vision.weight": random(WIDTH),
        "ln_vision.bias": random(WIDTH),
    }
    shapes = {
        "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,),
        "attn.q_proj.weight": (WIDTH, WIDTH), "attn.k_proj.weight": (WIDTH, WIDTH), "attn.v_proj.weight": (WIDTH, WIDTH),
        "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
        "mlp.w1.weight": (INNER, WIDTH), "mlp.w1.bias": (INNER,), "mlp.w2.weight": (INNER, WIDTH), "mlp.w2.bias": (INNER,),
        "mlp.w3.weight": (WIDTH, INNER), "mlp.w3.bias": (WIDTH,),
    }  # fmt: skip
    for name, size in (("norm1", WIDTH), ("norm2", WIDTH), ("attn.inner_attn_ln", WIDTH), ("mlp.ffn_ln", INNER)):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)
    for block in range(DEPTH):
        tensors |= {f"visual_encoder.blocks.{block}.{name}": random(*shape) for name, shape in shapes.items()}
    return tensors
