"""Captions against those of people: CIDEr, BLEU and ROUGE-L as pycocoevalcap computes them."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.scorers.caption_tokens import LEFT_OUT, ptb_tokens

#: captions -> the same, words with single spaces between
Tokenizer = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class CaptionScores:
    """What captions are worth.

    Args:
        cider: 0...10, of all pictures; how rare words are is taken from the references of these very pictures, so that it means
            little for a handful of them.
        bleu: BLEU-1 to 4, 0...1, of all pictures.
        rouge_l: 0...1, the mean over pictures.
        each_cider, each_rouge_l: by picture, in order.
    """

    cider: float
    bleu: tuple[float, ...]
    rouge_l: float
    each_cider: list[float]
    each_rouge_l: list[float]


def score(captions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str) -> CaptionScores:
    """Score one caption a picture.

    Args:
        references: of each picture, one or more.
        tokenizer: of :data:`TOKENIZERS`; another one is another CIDEr.

    Raises:
        ScoringError: if pycocoevalcap is missing, or Java where its tokenizer is asked for.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ScoringError(f"captions' metrics need pycocoevalcap ({error}): pip install 'pargo[eval]'.") from error
    texts = [*captions, *(text for some in references for text in some)]
    cut = iter(TOKENIZERS[tokenizer](texts))
    said = {index: [next(cut)] for index in range(len(captions))}
    right = {index: [next(cut) for _ in some] for index, some in enumerate(references)}
    # it prints lengths and ratios
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(right, said, verbose=0)
        rouge, each_rouge = Rouge().compute_score(right, said)
        cider, each_cider = _cider(Cider(), right, said)
    return CaptionScores(cider, tuple(float(value) for value in bleu), float(rouge), each_cider, each_rouge.tolist())


def _cider(metric, right: Mapping[int, list[str]], said: Mapping[int, list[str]]) -> tuple[float, list[float]]:
    if not any(text.split() for some in right.values() for text in some):
        # it looks for the most frequent of no words
        return 0.0, [0.0] * len(said)
    cider, each = metric.compute_score(right, said)
    return float(cider), each.tolist()


def _ptb(texts: Sequence[str]) -> list[str]:
    return [ptb_tokens(text) for text in texts]


def _spaces(texts: Sequence[str]) -> list[str]:
    return list(texts)


def _java(texts: Sequence[str]) -> list[str]:
    """Stanford's own program, which pycocoevalcap has with it.

    Raises:
        ScoringError: if there is no Java, or it fails.
    """
    import pycocoevalcap

    if shutil.which("java") is None:
        raise ScoringError("--rule ptb-java: there is no java to run Stanford's tokenizer; --rule ptb needs none.")
    jar = Path(pycocoevalcap.__path__[0]) / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    with tempfile.TemporaryDirectory() as folder:
        # whatever Java takes for a line's end would shift all the lines behind it
        lines = [" ".join(text.split()) for text in texts]
        file = Path(folder) / "captions.txt"
        file.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        options = ["-encoding", "UTF-8", "-preserveLines", "-lowerCase"]
        command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", *options, str(file)]
        done = subprocess.run(command, capture_output=True, check=False)
    cut = done.stdout.decode("utf-8", "replace").split("\n")
    if done.returncode != 0 or len(cut) < len(lines):
        raise ScoringError(f"--rule ptb-java: Stanford's tokenizer failed: {done.stderr.decode('utf-8', 'replace')[-500:]}")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in LEFT_OUT) for line in cut[: len(lines)]]


#: by the name of the rule: this package's; the Java program that it does the like of; none, as VLMEvalKit has it
TOKENIZERS: Mapping[str, Tokenizer] = {"ptb": _ptb, "ptb-java": _java, "spaces": _spaces}
