"""A private certificate authority for servers on loopback."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Authority:
    """A private certificate authority, made by openssl."""

    directory: Path

    def __post_init__(self) -> None:
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True)

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    def issue(self, name: str, *, days: int = 1) -> tuple[Path, Path]:
        """A certificate for NAME and its key; it has run out where DAYS are less than 0."""
        stem = f"{name}{days}"
        kind = "IP" if name[0].isdigit() else "DNS"
        (self.directory / f"{stem}.ext").write_text(f"subjectAltName={kind}:{name}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-subj", f"/CN={name}", "-keyout", f"{stem}.key", "-out", f"{stem}.csr")  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{stem}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", str(days), "-extfile", f"{stem}.ext", "-out", f"{stem}.crt")  # fmt: skip
        return self.directory / f"{stem}.crt", self.directory / f"{stem}.key"

    def server(self, name: str, *, days: int = 1) -> ssl.SSLContext:
        """How a server with a certificate for NAME speaks TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, days=days))
        return context

    def trust(self, root: Path, address: str) -> Path:
        """Have the system below ROOT trust the authority for the registry at ADDRESS; the directory for that."""
        directory = root / "etc/containers/certs.d" / address
        directory.mkdir(parents=True)
        shutil.copy(self.certificate, directory / "ca.crt")
        return directory
