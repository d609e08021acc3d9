"""Chat templates of the language model families.

Each marks what the assistant says, its end token included, with ``{% generation %}``: labels come from those marks. What
stands in front of a mark is exactly the prompt that ``add_generation_prompt`` gives, so that a model is asked as it was
trained. A picture is a part ``{"type": "image"}`` of a message's content. :data:`PLAIN` belongs to no family: captions without
a conversation, for training alone.
"""

from __future__ import annotations

IMAGE_TOKEN = "<image>"


def said_macro(after_image: str = "") -> str:
    """The macro ``said(content)`` of a template: plain text, or parts of text and pictures in their order.

    Args:
        after_image: what follows a picture, as a Jinja string shows it.
    """
    return (
        "{%- macro said(content) -%}"
        "{%- if content is string -%}{{- content -}}"
        "{%- else -%}{%- for part in content -%}"
        "{%- if part['type'] in ['image', 'image_url'] -%}{{- '"
        + IMAGE_TOKEN
        + after_image
        + "' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}"
    )


def with_parts(template: str, image_token: str = IMAGE_TOKEN) -> str:
    """A template for text alone that takes parts of text and pictures too: they are joined before it sees them."""
    said = said_macro("\\n").replace(IMAGE_TOKEN, image_token)
    return (
        said
        + "{%- set joined = namespace(messages=[]) -%}"
        + "{%- for message in messages -%}"
        + "{%- set joined.messages = joined.messages + [dict(message, content=said(message['content']))] -%}"
        + "{%- endfor -%}"
        + "{%- set messages = joined.messages -%}"
        + template
    )


_SAID = said_macro(after_image="\\n")

VICUNA = (
    _SAID
    + """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
  {{- said(messages[0]['content']) + ' ' -}}{%- set turns = messages[1:] -%}
{%- else -%}
  {{- 'A chat between a curious user and an artificial intelligence assistant. ' -}}
  {{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " -}}{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
  {%- if message['role'] == 'assistant' -%}
    {{- 'ASSISTANT:' -}}
    {%- generation -%}{{- ' ' + said(message['content']) + eos_token -}}{%- endgeneration -%}
  {%- else -%}
    {{- 'USER: ' + said(message['content']) + ' ' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
)

LLAMA3 = (
    _SAID
    + """{{- bos_token -}}
{%- for message in messages -%}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
  {%- if message['role'] == 'assistant' -%}
    {%- generation -%}{{- said(message['content']) + '<|eot_id|>' -}}{%- endgeneration -%}
  {%- else -%}
    {{- said(message['content']) + '<|eot_id|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
)

_CHATML = """{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\\n' -}}
  {%- if message['role'] == 'assistant' -%}
    {%- generation -%}{{- said(message['content']) + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
  {%- else -%}
    {{- said(message['content']) + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

CHATML = _SAID + _CHATML

INTERNLM2 = _SAID + "{{- bos_token -}}" + _CHATML

QWEN = (
    _SAID
    + """{%- if messages[0]['role'] != 'system' -%}
  {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
"""
    + _CHATML
)

# no turns: pictures, and behind them what is said about them
PLAIN = (
    said_macro()
    + """{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'assistant' -%}
    {%- generation -%}{{- said(message['content']) + eos_token -}}{%- endgeneration -%}
  {%- elif message['content'] is not string -%}
    {{- said(message['content'] | selectattr('type', 'equalto', 'image')) -}}
  {%- endif -%}
{%- endfor -%}
"""
)
