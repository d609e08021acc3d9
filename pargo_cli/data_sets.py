"""Data sets that can be prepared, each with the module of ``pargo_mllm.data.preparation.sets`` that has it in ``ALL``."""

DATA_SETS = {
    "coco_captions": "coco_captions",
}
