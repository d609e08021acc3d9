"""Which rows of a model's embeddings are words."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.vocabulary import Vocabulary, embedding_mean
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.tiny_causal import tiny_model


def test_words_can_be_read():
    pieces = [
        "<unk>",
        "<s>",
        "<image>",
        "<0x41>",
        "<reserved_3>",
        "[UNUSED_TOKEN_7]",
        "▁dog",
        "dogs",
        ",",
        "▁",
        "\n",
        "héé",
        "\ufffd",
    ]
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    # three rows behind the end
    module = torch.nn.Embedding(len(pieces) + 3, 4)
    model = SimpleNamespace(get_input_embeddings=lambda: module, config=SimpleNamespace(image_token_id=2))
    vocabulary = Vocabulary.of(model, SimpleNamespace(tokenizer=tokenizer))
    words = [pieces[index] for index in vocabulary.is_word.nonzero()[:, 0]]
    assert words == ["▁dog", "dogs", ",", "▁", "héé"]
    assert vocabulary.embeddings.data_ptr() == module.weight.data_ptr()
    assert vocabulary.text(7) == "dogs"
    assert vocabulary.text(len(pieces)) == ""


def test_of_a_model_that_spells_by_letters():
    model, processor = make_family("qwen")
    vocabulary = Vocabulary.of(model, processor)
    words = vocabulary.is_word.nonzero()[:, 0].tolist()
    # of the 256 bytes those that are signs by themselves; neither control tokens nor the image token
    assert sorted(vocabulary.text(index) for index in words) == [chr(code) for code in range(33, 127)]


def test_a_vocabulary_of_bytes_alone_has_no_words():
    with pytest.raises(AlignmentError, match="none of the 261 rows"):
        Vocabulary.of(*make_family("vicuna"))


def test_the_mean_is_that_of_every_row_and_lengths_are_less_it():
    table = (torch.randn(5000, 3, generator=torch.manual_seed(0)) + 2).bfloat16()
    vocabulary = Vocabulary(table, torch.arange(5000) < 10)
    expected = table.double().mean(dim=0)
    torch.testing.assert_close(vocabulary.mean.double(), expected, rtol=1e-7, atol=0)
    assert torch.equal(embedding_mean(table), vocabulary.mean)
    norms = (table.double() - vocabulary.mean).norm(dim=1)
    torch.testing.assert_close(vocabulary.lengths(True).norms, norms)
    torch.testing.assert_close(vocabulary.lengths(False).norms, table.double().norm(dim=1))
    # a row that is the mean says nothing
    around = torch.tensor([[1.0, 3], [3, 1], [2, 2]])
    assert Vocabulary.of_table(around).lengths(True).norms.tolist()[2] == 0


def test_a_class_that_scales_its_embeddings_says_so():
    model = tiny_model("gemma")
    tokenizer = make_family("qwen")[1].tokenizer
    model.config.image_token_id = 3
    vocabulary = Vocabulary.of(model, SimpleNamespace(tokenizer=tokenizer))
    given = model.get_input_embeddings()(torch.tensor([7]))[0]
    torch.testing.assert_close(vocabulary.embeddings[7] * vocabulary.scale, given)
    assert vocabulary.scale != 1


@pytest.mark.parametrize(
    ("table", "said", "error", "match"),
    [
        (torch.eye(3), {"is_word": torch.ones(2, dtype=torch.bool)}, ValueError, "one a row"),
        (torch.eye(3), {"is_word": torch.ones(3)}, ValueError, "give bool"),
        (torch.eye(3), {"texts": ("a", "b")}, ValueError, "2 texts of 3 rows"),
        (torch.eye(3), {"scale": float("nan")}, ValueError, "scale=nan"),
        (torch.ones(3), {}, ValueError, r"give floating \[V, C\]"),
        (torch.eye(3).double() * 1e200, {}, AlignmentError, r"row 0 .* beyond fp32"),
        (torch.eye(3).double() * 1e-200, {}, AlignmentError, "too short for fp32"),
    ],
)
def test_what_does_not_belong_together_is_refused(table, said, error, match):
    with pytest.raises(error, match=match):
        Vocabulary(**{"embeddings": table, "is_word": torch.ones(3, dtype=torch.bool)} | said)


def test_vocabularies_are_told_apart():
    one, two = Vocabulary.of_table(torch.eye(3)), Vocabulary.of_table(torch.eye(3))
    assert one == one
    assert one != two


def test_a_table_made_for_inference_is_one_too():
    with torch.inference_mode():
        table = torch.eye(3)
    assert Vocabulary.of_table(table).lengths(False).norms.tolist() == [1, 1, 1]
