"""The projectors that ParGo is compared with: what each may see, and its numbers from the equations, token by token."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, gelu, silu

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration, ParGoProjectorConfig, build_projector
from tests.mllm.made import by_hand
from tests.mllm.made.influence import features, influence

GRID, TOKENS = 4, (2, 5)  # 4 x 4 patches; 10 tokens make a grid of 2 x 5
NEW = ("resampler", "c_abstractor", "d_abstractor")


@pytest.fixture
def make(make_projector):
    def make(kind, **options):
        return make_projector(projector_type=kind, feature_grid=[GRID, GRID], **options)

    return make


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("pargo", 304), ("qformer", 304), ("resampler", 304), ("c_abstractor", 304), ("d_abstractor", 304),
        ("linear", 576), ("mlp", 576),
    ],
)  # fmt: skip
def test_the_papers_numbers_of_tokens(kind, tokens):
    config = ParGoProjectorConfig(
        projector_type=kind,
        vision_hidden_size=8,
        output_size=4,
        num_attention_heads=2,
        num_hidden_layers=2,
        feature_grid=[24, 24],
    )
    assert config.num_output_tokens(576) == tokens
    assert build_projector(config)(torch.zeros(1, 576, 8)).shape == (1, tokens, 4)


def test_a_resampler_equals_the_equations(make):
    projector, pictures = make("resampler"), features()
    with torch.no_grad():
        source = projector.input_proj(pictures[1])
        tokens = projector.query_tokens[0]
        for layer in projector.layers:
            asking = by_hand.norm(tokens, layer.attention_norm)
            keys = torch.cat((by_hand.norm(source, layer.source_norm), asking))
            tokens = tokens + torch.stack([by_hand.attend(layer.attention, token, keys) for token in asking])
            inner = gelu(layer.mlp.fc1(by_hand.norm(tokens, layer.mlp_norm)))
            tokens = tokens + layer.mlp.fc2(inner)
        expected = projector.output_proj(by_hand.norm(tokens, projector.norm))
    torch.testing.assert_close(projector(pictures)[1], expected, rtol=0, atol=1e-10)
    assert influence(projector, pictures[0]).all(), "every token sees the whole picture"


def cell(index, cells, size):
    """The rows (or columns) that a cell of an average pooling covers."""
    return range(index * size // cells, -(-(index + 1) * size // cells))


def convolve_by_hand(block, x):
    """A residual block on ``[C, rows, columns]``, place by place."""

    def at_each_place(conv, x):
        return torch.einsum("oi,irc->orc", conv.weight, x) + (0 if conv.bias is None else conv.bias[:, None, None])

    def norm(x, module):
        return by_hand.norm(x.permute(1, 2, 0), module).permute(2, 0, 1)

    out = silu(norm(at_each_place(block.conv1, x), block.norm1))
    near = torch.stack([conv2d(out[c][None, None], block.conv2.weight[c][None], padding=1)[0, 0] for c in range(len(out))])
    out = silu(norm(near, block.norm2))
    gates = at_each_place(block.gates.fc2, silu(at_each_place(block.gates.fc1, out.mean((1, 2))[:, None, None])))
    out = norm(at_each_place(block.conv3, out / (1 + torch.exp(-gates))), block.norm3)
    if len(block.shortcut):
        x = norm(at_each_place(block.shortcut[0], x), block.shortcut[1])
    return silu(out + x)


def pooled_by_hand(x):
    (rows, columns), (height, width) = TOKENS, x.shape[1:]
    cells = [[(cell(r, rows, height), cell(c, columns, width)) for c in range(columns)] for r in range(rows)]
    return torch.stack([torch.stack([x[:, list(r)][:, :, list(c)].mean((1, 2)) for r, c in line], -1) for line in cells], -2)


@pytest.mark.parametrize("grid", [[GRID, GRID], [2, 8]])
@pytest.mark.parametrize("width", [24, 32], ids=["the encoder's width", "wider"])
def test_a_c_abstractor_equals_the_equations(make_projector, width, grid):
    projector = make_projector(projector_type="c_abstractor", hidden_size=width, feature_grid=grid)
    pictures = features()
    assert (len(projector.fine), len(projector.coarse)) == (2, 1)
    with torch.no_grad():
        x = (pictures[1] + projector.position_embeddings[0]).T.reshape(24, *grid)
        for block in projector.fine:
            x = convolve_by_hand(block, x)
        x = pooled_by_hand(x)
        for block in projector.coarse:
            x = convolve_by_hand(block, x)
        expected = projector.output_proj(silu(projector.hidden_proj(x.reshape(width, -1).T)))
    torch.testing.assert_close(projector(pictures)[1], expected, rtol=0, atol=1e-10)


def test_a_c_abstractor_is_local_but_for_its_gates(make_projector):
    # 4 x 4 tokens on 8 x 8 patches, one convolution in front of the pooling and one after it
    sizes = {"feature_grid": [8, 8], "num_partial_tokens": 14, "num_hidden_layers": 2}
    projector, picture = make_projector(projector_type="c_abstractor", **sizes), features(1, 64)[0]
    assert influence(projector, picture).all(), "the gates look at the whole picture"
    with torch.no_grad():
        for block in (*projector.fine, *projector.coarse):
            block.gates.fc2.weight.zero_()
    moved = influence(projector, picture).reshape(4, 4, 8, 8)
    for row in range(4):
        for column in range(4):
            expected = torch.zeros(8, 8, dtype=torch.bool)
            # a cell and those around it, 2 x 2 patches each, and one patch around these
            top, left = max(0, 2 * (row - 1) - 1), max(0, 2 * (column - 1) - 1)
            expected[top : 2 * (row + 2) + 1, left : 2 * (column + 2) + 1] = True
            assert torch.equal(moved[row, column], expected)


def look_by_hand(attention, query, place, source, seen):
    """One token of deformable attention; ``seen`` gets the patches that it read."""
    rows, columns, _ = source.shape
    heads, points = attention.num_heads, attention.num_points
    offsets = attention.offset_proj(query).reshape(heads, points, 2)
    weights = attention.weight_proj(query).reshape(heads, points).softmax(-1)
    value = attention.value_proj(source).reshape(rows, columns, heads, -1)
    mixed = []
    for head in range(heads):
        total = torch.zeros_like(value[0, 0, head])
        for point in range(points):
            # patch (r, c) has its middle at (c + 1/2, r + 1/2)
            x = place[0] * columns + offsets[head, point, 0].item() - 0.5
            y = place[1] * rows + offsets[head, point, 1].item() - 0.5
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    share = (1 - abs(y - r)) * (1 - abs(x - c))
                    if 0 <= r < rows and 0 <= c < columns and share > 0:
                        seen.add(r * columns + c)
                        total = total + weights[head, point] * share * value[r, c, head]
        mixed.append(total)
    return attention.o_proj(torch.cat(mixed))


@pytest.mark.parametrize("grid", [[GRID, GRID], [2, 8]])
def test_a_d_abstractor_equals_the_equations(make_projector, grid):
    projector, pictures = make_projector(projector_type="d_abstractor", feature_grid=grid), features()
    with torch.no_grad():
        for layer in projector.layers:
            layer.attention.offset_proj.weight.normal_(std=0.05)
            layer.attention.weight_proj.weight.normal_(std=0.3)
        source = projector.input_proj(pictures[1] + projector.position_embeddings[0]).reshape(*grid, -1)
        tokens = list(pooled_by_hand(source.permute(2, 0, 1)).flatten(1).T)
        for index in range(10):
            row, column = divmod(index, TOKENS[1])
            place = ((column + 0.5) / TOKENS[1], (row + 0.5) / TOKENS[0])
            for layer in projector.layers:
                query = tokens[index] + projector.query_tokens[0, index]
                attended = look_by_hand(layer.attention, query, place, source, set())
                token = by_hand.norm(tokens[index] + attended, layer.attention_norm)
                tokens[index] = by_hand.norm(token + layer.mlp.fc2(gelu(layer.mlp.fc1(token))), layer.mlp_norm)
        expected = projector.output_proj(torch.stack(tokens))
    torch.testing.assert_close(projector(pictures)[1], expected, rtol=0, atol=1e-9)


def test_a_new_d_abstractor_looks_along_its_heads_directions(make):
    projector = make("d_abstractor", num_hidden_layers=1, num_sampling_points=2)
    attention = projector.layers[0].attention
    with torch.no_grad():
        attention.reset_points()
        moved = influence(projector, features(1)[0])
        source, zero = torch.zeros(GRID, GRID, 24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
        for index in range(10):
            row, column = divmod(index, TOKENS[1])
            seen = {r * GRID + c for r in cell(row, TOKENS[0], GRID) for c in cell(column, TOKENS[1], GRID)}
            look_by_hand(attention, zero, ((column + 0.5) / TOKENS[1], (row + 0.5) / TOKENS[0]), source, seen)
            assert set(moved[index].nonzero().flatten().tolist()) == seen
    ahead = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[-1.0, 0.0], [-2.0, 0.0]]])
    torch.testing.assert_close(attention.offset_proj.bias.float().reshape(2, 2, 2), ahead, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", NEW)
def test_every_parameter_learns_and_checkpointing_changes_nothing(make, kind):
    gradients = []
    for checkpointing in (False, True):
        projector = make(kind).train()
        if checkpointing and projector.supports_gradient_checkpointing:
            projector.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        projector(features()).square().sum().backward()
        gradients.append([parameter.grad for parameter in projector.parameters()])
    assert all(grad is not None for grad in gradients[0])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", NEW)
def test_in_the_model_it_trains_saves_and_generates(make_config, processor, pictures, tmp_path, kind):
    torch.manual_seed(0)
    model = ParGoForConditionalGeneration(make_config(projector_type=kind))
    # two pictures: a product with a single row depends, in its last bit, on where in memory the loaded weights lie
    batch = processor(text=["<image> what shape <image> circle"], images=[pictures[:2]], return_tensors="pt")
    before = {name: parameter.detach().clone() for name, parameter in model.model.projector.named_parameters()}
    model(**batch, labels=batch["input_ids"]).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = [name for name, parameter in model.model.projector.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(moved) > len(before) / 2
    model.eval().save_pretrained(tmp_path)
    loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert (
        loaded.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=None).shape[1]
        == batch["input_ids"].shape[1] + 3
    )


def test_what_does_not_fit_is_refused(make_config, make):
    with pytest.raises(ValueError, match=r"num_partial_tokens \+ num_global_tokens=11 makes no grid.*4 x 4"):
        make("c_abstractor", num_global_tokens=3)
    with pytest.raises(ValueError, match=r"feature_grid is None.*'d_abstractor' needs the rows"):
        build_projector(ParGoProjectorConfig(projector_type="d_abstractor", vision_hidden_size=16, output_size=4))
    with pytest.raises(ValueError, match=r"n_v=17 features; feature_grid=\[4, 4\] has 16.*class token"):
        make("c_abstractor")(features(1, 17))
    with pytest.raises(ValueError, match=r"feature_grid=\[4, 5\] is not the encoder's grid of 16 patches"):
        make_config(feature_grid=[4, 5])
    with pytest.raises(ValueError, match=r"feature_grid=\[4\] must be two numbers"):
        ParGoProjectorConfig(feature_grid=[4])
    with pytest.raises(ValueError, match=r"num_sampling_points=0"):
        ParGoProjectorConfig(num_sampling_points=0)
    assert isinstance(make_config(projector_type="c_abstractor"), ParGoConfig)
