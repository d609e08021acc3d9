"""lmms-eval's own tasks on rows that a test made, without a model or a network: its reader of the set, its rules and its sums.
And our figures for the same."""

import copy
import inspect
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from pargo_mllm.evaluation.benchmark import Answered
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.scoring import score

SIZE = (64, 48)


def their_file(name):
    """Where a task's YAML lies, by its name below lmms_eval/tasks."""
    import lmms_eval.tasks

    return Path(lmms_eval.tasks.__file__).parent / name


class TheirTask:
    """A task of lmms-eval, whose data set is these rows in place of the hub's.

    Args:
        name: its YAML file, below lmms_eval/tasks.
        rows: as the hub has them, without pictures.
        folder: for the data set, ``rows.parquet``, and what the task writes.
    """

    def __init__(self, name, rows, folder):
        import datasets
        from lmms_eval.api.task import ConfigurableMessagesTask
        from lmms_eval.utils import load_yaml_config

        self.file = folder / "rows.parquet"
        shown = Image.new("RGB", SIZE, "red")
        datasets.Dataset.from_list([{**row, "image": shown} for row in rows]).to_parquet(self.file)
        config = load_yaml_config(str(their_file(name)))
        split = config["test_split"]
        here = {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": {split: str(self.file)}}}
        if name.startswith("gqa"):
            here["process_docs"] = None  # it fetches the pictures
        config.pop("group", None)
        self.task = ConfigurableMessagesTask(config={**config, **here})
        self.settings = SimpleNamespace(output_path=str(folder))
        self.documents = list(self.task.dataset[split])

    def figures(self, answers, *names):
        """Those of its metrics, by name, for one answer a document."""
        values = {name: [] for name in names}
        for document, answer in zip(self.documents, answers, strict=True):
            # some rules write into the document
            for name, value in self.task.process_results(copy.deepcopy(document), [answer]).items():
                if name in values:
                    values[name].append(value)
        return {name: float(self.total(name, values[name])) for name in names}

    def total(self, name, values):
        """What it makes of its values of a metric, one a document."""
        total = self.task.aggregation()[name]
        more = {"args": self.settings} if "args" in inspect.signature(total).parameters else {}
        return total(values, **more)


def our_figures(name, rule, file, answers, grades=None):
    """Our result for one answer a row of the file, and for a judge's grades of it."""
    benchmark = find(name)
    items = benchmark.read(file)
    told = [(grade,) for grade in grades] if grades else [()] * len(items)
    answered = [Answered(item, text, grades=grade) for item, text, grade in zip(items, answers, told, strict=True)]
    return score(benchmark, benchmark.rule(rule), answered).result


def at(result, path):
    """The figure that stands there: ``parts.human``."""
    for key in path.split("."):
        result = result[key]
    return result
