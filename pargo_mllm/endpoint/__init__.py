"""A client of OpenAI-compatible chat endpoints: many questions at a time, and none that was answered is asked again.

    endpoint = Endpoint("http://localhost:8000/v1", "a-model", cache=Path("answers.sqlite"))
    for said in endpoint.ask([Request([{"role": "user", "content": "…"}], {"temperature": 0})], title="grading"):
        ...  # an Answer, or a Failure with its reason

The API key comes from the environment and is written nowhere: to no file, no message, no answer.
"""

from pargo_mllm.endpoint.client import Endpoint
from pargo_mllm.endpoint.kept import Answer, Failure
from pargo_mllm.endpoint.request import EndpointError, Request

__all__ = ["Answer", "Endpoint", "EndpointError", "Failure", "Request"]
