"""PyYAML reads what is written here: Debian's own Python has it where the project's has not."""

import json
import random
import subprocess
from typing import Any

import pytest

from keelboot.cli.yaml_text import yaml_text

PYTHON = "/usr/bin/python3"
READ = "import json, sys, yaml; print(json.dumps([yaml.safe_load(text) for text in json.load(sys.stdin)]))"
# What YAML 1.1 or 1.2 reads as something else unless it is quoted, and a few words that it does not.
_WORDS = (
    "yes no on off y N null Null true ~ - -- --- a:b a: :a sha256:abc 1 1.0 1e5 0x1f 0o7 12:30 1:20:30 2026-01-01",
    "2026-01-01T00:00:00Z #x x#y x# ! !t & &a * *b % @x ` / a/ k=v = << {} [] 'q' \"q\" , ? | > .. .inf nan Infinity",
)
WORDS = [word for words in _WORDS for word in words.split()]
WORDS += [
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a: b",
    "a #b",
    "- a",
    "a\nb",
    "\n",
    "\t",
    "\x00",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
]
WORDS += ["\ufeff", "\ud7ff", "\ue000", "\U000e0001", "\\", "\\n", '"\\"', "\u00e9", "\U0001f600"]


def some(source: random.Random, depth: int) -> Any:
    kind = source.randrange(7 if depth else 4)
    if kind == 0:
        return source.choice([None, True, False, 0, -5, 10**12])
    if kind < 4:
        return source.choice(WORDS)
    if kind == 4:
        return [some(source, depth - 1) for _ in range(source.randrange(4))]
    return {source.choice(WORDS): some(source, depth - 1) for _ in range(source.randrange(4))}


def test_is_read_back_as_it_was() -> None:
    if subprocess.run([PYTHON, "-c", "import yaml"], capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no PyYAML (Debian's python3-yaml)")
    source = random.Random(20260101)
    values = [*WORDS, *([word] for word in WORDS), *({word: word} for word in WORDS)]
    values += [some(source, 4) for _ in range(300)]
    texts = json.dumps([yaml_text(value) for value in values])
    done = subprocess.run([PYTHON, "-c", READ], input=texts, capture_output=True, text=True, check=True)
    for value, read in zip(values, json.loads(done.stdout), strict=True):
        assert read == value, yaml_text(value)


def test_looks_like_yaml() -> None:
    value = {"kind": "BootcHost", "spec": {"image": None, "on": "yes"}, "list": [{"a": 1, "b": []}, "x y"], "empty": {}}
    assert yaml_text(value) == (
        'kind: BootcHost\nspec:\n  image: null\n  "on": "yes"\nlist:\n  - a: 1\n    b: []\n  - "x y"\nempty: {}\n'
    )
