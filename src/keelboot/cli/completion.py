"""keelboot completion: what the shell offers after a tabulator."""

import argparse

from keelboot.cli.terminal import Terminal

SUMMARY = "print shell completion"
EXAMPLES = """
keelboot completion bash | sudo tee /usr/share/bash-completion/completions/keelboot
keelboot completion zsh >~/.zfunc/_keelboot
source <(keelboot completion bash)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from importlib.util import find_spec

    from keelboot.failure import MissingTool

    if find_spec("shtab") is None:
        raise MissingTool(
            "cannot print shell completion",
            why="the Python package shtab is not installed",
            fix="`pip install shtab`, or Debian's python3-shtab.",
        )
    import shtab

    from keelboot.cli import main

    terminal.out(shtab.complete(main.parser(), shell=arguments.shell))
    return 0
