"""MME: two questions a picture, yes or no, in ten subtasks of perception and four of cognition (2,374 questions).

Official files: a folder a subtask, in which ``NAME.txt`` has the two lines ``question<TAB>Yes|No`` of the picture ``NAME.jpg``
or ``.png``, side by side or in ``questions_answers_YN`` and ``images``. Predictions: a folder of ``SUBTASK.txt``, whose lines
are ``image<TAB>question<TAB>Yes|No<TAB>prediction``, two consecutive ones to a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, ScoringError, each, mean
from pargo_mllm.evaluation.reading.records import rows_with_pictures, said
from pargo_mllm.evaluation.reading.rows import Row, found, read_lines, read_rows
from pargo_mllm.evaluation.reading.set_pictures import PictureFolder
from pargo_mllm.evaluation.scorers import yes_no
from pargo_mllm.evaluation.writing.submissions import asked, in_one_line, write_text

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION
INSTRUCTION = "Please answer yes or no."


class _Line(NamedTuple):
    where: str
    task: str
    image: str
    question: str
    answer: str
    text: str = ""
    pictures: tuple = ()


def read(data: Path) -> list[Item]:
    """The questions of the official folder, of a folder of ``SUBTASK.txt`` with the right answers, of VLMEvalKit's table or of
    the hub's parquet."""
    lists, folders = _subtask_files(data), _subtask_folders(data)
    pictures = PictureFolder(data)
    if lists:
        lines = [
            line._replace(pictures=(pictures.opens(f"{task}/{line.image}"),))
            for task, file in lists.items()
            for line in _pairs(_listed(task, file, 3))
        ]
    elif folders:
        lines = [line for folder in folders for line in _official(folder, pictures)]
    else:
        lines = list(_rows(data))
    return _items(lines)


def predictions(path: Path) -> list[Prediction]:
    """The predictions of a folder of ``SUBTASK.txt``, or of one such file, with their questions; VLMEvalKit's table with
    ``prediction``; or LLaVA's answers."""
    lists = _subtask_files(path)
    if not lists and path.is_file() and path.suffix != ".txt":
        return _of_rows(list(read_rows(path)))
    if not lists:
        raise ScoringError(f"{path} holds none of MME's files: {', '.join(f'{task}.txt' for task in SUBTASKS)}.")
    lines = [line for task, file in lists.items() for line in _pairs(_listed(task, file, 4))]
    return _carried(lines)


def _carried(lines: Sequence[_Line]) -> list[Prediction]:
    return [
        Prediction(line.text, line.where, picture=line.image, question=item.question, item=item)
        for line, item in zip(lines, _items(lines), strict=True)
    ]


def submission(predictions: Sequence[Prediction], folder: Path) -> Path:
    """A folder ``mme`` of ``SUBTASK.txt``. A line end in an answer becomes a space, which the rule does not tell from one."""
    pairs: dict[str, dict[Any, list[str]]] = {}
    for one in predictions:
        item = asked(one)
        fields = (item.picture.rsplit("/", 1)[-1], item.details["stated"], item.answer.capitalize(), one.text)
        of_task = pairs.setdefault(item.part, {})
        of_task.setdefault((item.picture, item.details["pair"]), []).append("\t".join(map(in_one_line, fields)) + "\n")
    for task, of_task in pairs.items():
        write_text("".join(line for lines in of_task.values() for line in lines), folder / "mme" / f"{task}.txt")
    return folder / "mme"


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``perception``, at most 2,000, and ``cognition``, at most 800: the sums of their ``subtasks``, each 100 x the share of
    right answers + 100 x the share of pictures with both right.

    ``missing_subtasks`` are in neither sum. ``details`` has each subtask's shares, and precision and recall, which leave
    "other" out; a picture of whose questions only one was asked (as under ``--limit``) is among ``single_questions`` and no
    pair.
    """
    details = {task: _details([mark for mark in marks if mark.item.part == task]) for task in SUBTASKS}
    details = {task: found for task, found in details.items() if found}
    points = {task: 100 * found["accuracy"] + 100 * found["accuracy_plus"] for task, found in details.items()}
    return {
        "perception": sum(points.get(task, 0.0) for task in PERCEPTION),
        "cognition": sum(points.get(task, 0.0) for task in COGNITION),
        "subtasks": points,
        "missing_subtasks": [task for task in SUBTASKS if task not in points],
        "details": details,
    }


def _details(marks: Sequence[Mark]) -> dict[str, Any]:
    if not marks:
        return {}
    pairs: dict[Any, list[float]] = {}
    for mark in marks:
        pairs.setdefault((mark.item.picture, mark.item.details["pair"]), []).append(mark.value)
    both = [float(all(values)) for values in pairs.values() if len(values) == 2]
    counts = yes_no.counts((mark.item.answer, mark.read) for mark in marks if mark.read != "other")
    rates = yes_no.rates(counts)
    return {
        "accuracy": mean(mark.value for mark in marks),
        "accuracy_plus": mean(both) if both else 0.0,
        "precision": rates["precision"],
        "recall": rates["recall"],
        "other": sum(mark.read == "other" for mark in marks),
        "single_questions": len(pairs) - len(both),
    }


def _mark(one: Answered) -> tuple[float, str]:
    read = yes_no.mme(one.text)
    return float(read == one.item.answer), read


def _subtask_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.stem: path} if path.suffix == ".txt" and path.stem in SUBTASKS else {}
    return {task: path / f"{task}.txt" for task in SUBTASKS if (path / f"{task}.txt").is_file()}


def _subtask_folders(data: Path) -> list[Path]:
    """The official folders, in ``data`` or somewhere below it, as the archive unpacks.

    Raises:
        ScoringError: if they lie in several places.
    """
    places = {data} if any((data / task).is_dir() for task in SUBTASKS) else set()
    places = places or {folder.parent for task in SUBTASKS for folder in data.rglob(task) if folder.is_dir()}
    if len(places) > 1:
        listed = ", ".join(sorted(map(str, places))[:5])
        raise ScoringError(f"{data} has the folders of MME's subtasks in {len(places)} places: {listed}; give one of them.")
    return [place / task for place in places for task in SUBTASKS if (place / task).is_dir()]


def _listed(task: str, file: Path, fields: int) -> Iterator[_Line]:
    """The lines of a subtask's file; an answer may hold tabs."""
    for number, line in enumerate(read_lines(file), start=1):
        if not line:
            continue
        where, parts = f"{file}, line {number}", line.split("\t", 3)
        if len(parts) < fields:
            names = ("an image", "a question", "Yes or No", "a prediction")[:fields]
            raise ScoringError(f"{where}: it has {len(parts)} fields; {', '.join(names)} are wanted, with tabs between them.")
        image, question, answer, *text = parts
        yield _Line(where, task, image, question, answer, "".join(text))


def _pairs(lines: Iterable[_Line]) -> Iterator[_Line]:
    """The same lines, after a look whether two consecutive ones are always of one picture."""
    first: _Line | None = None
    for line in lines:
        if first is not None and first.image != line.image:
            raise ScoringError(
                f"{line.where}: it is on the picture {line.image}, and the line before on {first.image}; "
                "two consecutive lines are on one picture, so that one is missing."
            )
        first = line if first is None else None
        yield line
    if first is not None:
        raise ScoringError(f"{first.where}: the other question on its picture, {first.image}, is missing behind it.")


def _official(folder: Path, pictures: PictureFolder) -> Iterator[_Line]:
    task = folder.name
    texts = folder / "questions_answers_YN"
    texts = texts if texts.is_dir() else folder
    shown = folder / "images" if (folder / "images").is_dir() else folder
    images = {file.stem: file for file in sorted(shown.iterdir()) if file.suffix.lower() in (".jpg", ".jpeg", ".png")}
    for file in sorted(texts.glob("*.txt")):
        if file.stem not in images:
            raise ScoringError(f"{file}: its picture, {file.stem}.jpg or .png, is not in {shown}.")
        image = images[file.stem]
        opens = pictures.opens(image.relative_to(pictures.root).as_posix())
        for number, line in enumerate(read_lines(file), start=1):
            if not line:
                continue
            where = f"{file}, line {number}"
            question, tab, answer = line.rpartition("\t")
            if not tab:
                raise ScoringError(f"{where}: a question, a tab and Yes or No are wanted.")
            yield _Line(where, task, image.name, question, answer, pictures=(opens,))


def _rows(data: Path) -> Iterator[_Line]:
    rows, pictures = rows_with_pictures(data, read_rows(found(data, "*MME*.tsv", "*.tsv", "*.parquet")))
    for row in rows:
        shown = pictures.of(row)
        yield _line(row, shown.get("picture", ""))._replace(pictures=shown.get("pictures", ()))


def _of_rows(rows: Sequence[Row]) -> list[Prediction]:
    if all(row.first("answer") is not None and row.first("category") is not None for row in rows):
        return _carried([_line(row)._replace(text=row.answer("prediction", "text")) for row in rows])
    # LLaVA numbers both questions on a picture by its name
    return [said(row, "text", "prediction", id=None, picture=row.text("question_id")) for row in rows]


def _line(row: Row, picture: str = "") -> _Line:
    named = row.first("question_id", "image_path")
    image = named.rsplit("/", 1)[-1] if isinstance(named, str) else picture
    return _Line(row.where, row.text("category"), image, row.text("question"), row.text("answer"))


def _items(lines: Iterable[_Line]) -> list[Item]:
    seen: Counter[str] = Counter()
    items = []
    for line in lines:
        if line.task not in SUBTASKS:
            raise ScoringError(f"{line.where}: {line.task!r} is no subtask of MME: {', '.join(SUBTASKS)}.")
        answer = line.answer.strip().lower()
        if answer not in ("yes", "no"):
            raise ScoringError(f"{line.where}: the right answer is {line.answer!r}, neither Yes nor No.")
        picture = f"{line.task}/{line.image}"
        seen[picture] += 1
        items.append(
            Item(
                id=f"{picture}#{seen[picture]}",
                question=line.question.strip().removesuffix(INSTRUCTION).rstrip(),
                answer=answer,
                picture=picture,
                part=line.task,
                pictures=line.pictures,
                details={"pair": (seen[picture] - 1) // 2, "stated": line.question},
            )
        )
    return items


ALL = (
    Benchmark(
        name="mme",
        title="MME",
        prompt=f"{{question}} {INSTRUCTION}",
        read=read,
        predictions=predictions,
        rules=(Rule("official", each(_mark), figures),),
        submission=submission,
        headline="perception",
        also=("cognition",),
    ),
)
