"""Work that is divided into pieces, over the processes of this machine or over the machines of a Ray cluster.

    engine = engine_of("local", processes=8)
    for written in engine.map(write_piece, pieces, title="preparing vqav2"):
        ...  # one a piece, in the order of the pieces

What a piece is, the caller says, and never the engine: so what is written is the same to the byte with any engine and any
number of processes. A piece writes its own file whole (:func:`pargo_mllm.files.whole_file`); a rerun does what is missing.
"""

from pargo_mllm.jobs.choosing import ENGINES, engine_of
from pargo_mllm.jobs.engine import Engine, JobError
from pargo_mllm.jobs.work_folder import WorkFolder

__all__ = ["ENGINES", "Engine", "JobError", "WorkFolder", "engine_of"]
