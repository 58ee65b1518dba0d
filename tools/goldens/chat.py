"""What transformers makes of chat templates.

    python tools/goldens/chat.py > crates/model/tests/golden/chat.json
    python tools/goldens/chat.py FOLDER > other.json      # of templates of your own, *.jinja

Written with transformers 4.57.
"""

import json
import pathlib
import sys

from transformers.utils.chat_template_utils import render_jinja_template

BOS, EOS = "<s>", "</s>"

TEMPLATES = {
    # Loops, filters and methods of strings, as in most models.
    "turns": """{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<user>' + message['content'].strip() + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<model>' + message.content | trim + eos_token }}
    {%- else %}
        {{- '<' ~ message.role.upper() ~ '>' ~ message.content }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}<model>{% endif %}
""",
    # Namespaces, slices, raised exceptions.
    "strict": """{%- set ns = namespace(system='') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if loop.first and ns.system %}
        {{- '[INST] ' + ns.system + '\n\n' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'].split('</think>')[-1].lstrip('\n') + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    # The marks of what a model generates.
    "marks": """{% for message in messages %}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}
        {{ message.content }}{{ eos_token }}
        {%- endgeneration -%}
    {%- else %}
        {{- '<' + message.role + '>' + message.content }}
    {%- endif %}
{%- endfor %}""",
    # Macros, defaults, tests, break, whitespace control by the environment alone.
    "macros": """{% macro turn(role, content) %}
<|{{ role }}|>{{ content | default('') }}<|end|>
{% endmacro %}
{{ bos_token -}}
{% for message in messages %}
    {% if message.content is string and message.content.startswith('stop') %}
        {% break %}
    {% endif %}
    {{ turn(message.role, message.content) }}
{% endfor %}
{% if tools is defined and tools %}tools{% endif %}
{% if add_generation_prompt is defined and add_generation_prompt %}
<|assistant|>
{% endif %}""",
}

TALKS = [
    [("user", "Hello, who are you?")],
    [("system", " Be brief. "), ("user", "What is 2 + 2?\n"), ("assistant", "<think>easy</think>\n\n4"), ("user", "<b>\"Sure\"</b> & why?")],
    [("user", "one"), ("user", "stop here"), ("assistant", "two")],
]


def main():
    templates = TEMPLATES
    if len(sys.argv) > 1:
        templates = {p.name: p.read_text() for p in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja"))}
    cases = []
    for name, template in templates.items():
        for talk in TALKS:
            messages = [{"role": role, "content": content} for role, content in talk]
            try:
                text = render_jinja_template(
                    conversations=[messages],
                    chat_template=template,
                    add_generation_prompt=True,
                    bos_token=BOS,
                    eos_token=EOS,
                )[0][0]
            except Exception as error:  # what the template raises, or Jinja
                text = None
                print(name, type(error).__name__, str(error)[:100], file=sys.stderr)
            cases.append({"name": name, "template": template, "bos": BOS, "eos": EOS, "messages": talk, "text": text})
    json.dump(cases, sys.stdout, indent=1, ensure_ascii=False)
    print()


main()
