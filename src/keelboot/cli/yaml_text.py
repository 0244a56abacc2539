"""JSON's values as YAML 1.2 in block style, without a library: to import PyYAML takes longer than all of `status`.

Whatever is not plainly a word is written as JSON writes it, which is YAML as well.
"""

import json
import re

# Nothing that YAML 1.1 or 1.2 could read as something else than a string: no sign, no digit first, no reserved word.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*(?::[A-Za-z0-9_./@-]+)*", re.ASCII)
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def yaml_text(value: object) -> str:
    """VALUE (dicts, lists, texts, numbers, true, false, null) as one YAML document, with a line break at its end."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: object) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for name, item in value.items() for line in _member(f"{_scalar(name)}:", item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _item(item)]
    return [_scalar(value)]


def _member(name: str, value: object) -> list[str]:
    if isinstance(value, dict | list) and value:
        return [name, *(f"  {line}" for line in _lines(value))]
    return [f"{name} {_scalar(value)}"]


def _item(value: object) -> list[str]:
    first, *rest = _lines(value)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    text = json.dumps(value, ensure_ascii=False)
    # YAML 1.2, section 5.1: such characters are escaped even between quotes, where JSON need not.
    return text if text.isprintable() else "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in text)
