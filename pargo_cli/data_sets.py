"""Data sets that can be prepared, each with the module of ``pargo_mllm.data.preparation.sets`` that has it in ``ALL``."""

DATA_SETS = {
    "coco_captions": "coco_captions",
    "cc3m": "cc3m",
    "cc3m_595k": "llava_captions",
    "sbu": "sbu",
    "laion": "laion",
    "webdataset": "webdataset",
    "blip_lcs": "llava_captions",
    "sharegpt4v": "sharegpt4v",
    "sharegpt4v_pt": "sharegpt4v",
    "pargocap": "pargocap",
}
