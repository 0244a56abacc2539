"""keelboot keygen: a pair of keys to sign images with, as cosign has them."""

import argparse
from pathlib import Path

from keelboot.cli import signatures
from keelboot.cli.terminal import Terminal

SUMMARY = "make a pair of keys to sign images with"
EXAMPLES = """\
  keelboot keygen
  keelboot keygen --output-key-prefix release
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--output-key-prefix",
        metavar="PREFIX",
        default="cosign",
        help="the files are PREFIX.key and PREFIX.pub (default: %(default)s)",
    )
    parser.epilog = (
        "The password that encrypts the private key is asked for, or comes from COSIGN_PASSWORD. ECDSA on P-256; "
        f"cosign uses the same files.\n\n{parser.epilog}"
    )


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Make them."""
    from keelboot import durable
    from keelboot.failure import NotWritable
    from keelboot.trust.keyfiles import generate, write_private_key

    private, public = (Path(f"{arguments.output_key_prefix}.{end}") for end in ("key", "pub"))
    for file in (private, public):
        if file.exists() or file.is_symlink():
            raise NotWritable(
                f"cannot write {file}",
                why="it exists, and a key that signed something is never written over",
                fix="Move it away, or give another --output-key-prefix.",
            )
        if not file.parent.is_dir():
            raise NotWritable(
                f"cannot write {file}", why=f"{file.parent} is not a directory", fix="Make it, or name another place."
            )
    key = generate()
    encrypted = write_private_key(key, signatures.new_password(private))
    with durable.replacing(private, mode=0o600) as output:
        output.write(encrypted)
    with durable.replacing(public) as output:
        output.write(key.public.pem.encode("ascii"))
    if terminal.json_wanted:
        told = {"private": str(private), "public": str(public)}
        terminal.json(told | {"fingerprint": key.public.fingerprint, "kind": key.public.kind})
        return 0
    terminal.out(f"private  {private}")
    terminal.out(f"public   {public}")
    terminal.out(f"key      {key.public.fingerprint} ({key.public.kind})")
    terminal.note(f"Keep {private} to yourself; machines get {public}. Next: keelboot sign REF --key {private}")
    return 0
