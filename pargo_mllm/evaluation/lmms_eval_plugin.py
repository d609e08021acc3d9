"""What lmms-eval finds through its entry point ``lmms_eval.models``: the model "pargo".

lmms-eval eval --model pargo --model_args pretrained=DIR --tasks mme --batch_size 8
"""

from __future__ import annotations

MODEL_ID = "pargo"


def manifest():
    """The manifest; called by lmms-eval, which is no dependency of this package."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL_ID, chat_class_path="pargo_mllm.evaluation.lmms_eval_model.ParGoLmmsEval")
