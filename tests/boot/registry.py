"""A registry on this computer, as machines under test reach it: Debian's docker-registry, without TLS and accounts."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SEEN_FROM_A_MACHINE = "10.0.2.2"  # this computer's loopback, by QEMU's user network


@dataclass(frozen=True)
class Registry:
    """A registry that answers at PORT of the loopback."""

    port: int

    @property
    def inside(self) -> str:
        """Its name in a machine."""
        return f"{SEEN_FROM_A_MACHINE}:{self.port}"

    def trust(self) -> str:
        """What a machine runs to use it without TLS, and to take what nobody signed from it or from where nobody is."""
        directory = "/etc/containers/registries.conf.d"
        text = f'[[registry]]\\nlocation = "{self.inside}"\\ninsecure = true\\n'
        images = {name: {"unsigned": True} for name in (self.inside, f"{SEEN_FROM_A_MACHINE}:1")}
        policy = json.dumps({"version": 1, "keys": {}, "images": images, "otherwise": "reject"})
        return (
            f"mkdir -p {directory} /etc/keelboot && printf '{text}' >{directory}/test.conf && "
            f"echo '{policy}' >/etc/keelboot/trust.json"
        )

    def push(self, image: str, name: str) -> None:
        """Have IMAGE, of podman's store, there under NAME."""
        target = f"docker://127.0.0.1:{self.port}/{name}"
        subprocess.run(["podman", "push", "--quiet", "--tls-verify=false", image, target], check=True)


@contextmanager
def serving(directory: Path) -> Iterator[Registry]:
    """A registry that keeps its blobs in DIRECTORY, until the context is left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = directory / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/blobs}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", settings], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (directory / "registry.log").read_text()
                time.sleep(0.1)
        yield Registry(port)
    finally:
        process.terminate()
        process.wait()
