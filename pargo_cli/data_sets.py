"""Data sets that can be prepared, each with the module of ``pargo_mllm.data.preparation.sets`` that has it in ``ALL``."""

DATA_SETS = {
    "coco_captions": "coco_captions",
    "vqav2": "vqav2",
    "gqa": "gqa",
    "ocrvqa": "ocrvqa",
    "vsr": "vsr",
    "scienceqa": "scienceqa",
    "aokvqa": "aokvqa",
    "refcoco": "refer",
    "refcoco+": "refer",
    "refcocog": "refer",
    "vg": "vg",
    "llava150k": "llava150k",
}
