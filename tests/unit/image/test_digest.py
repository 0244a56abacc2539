import hashlib

import pytest

from keelboot.image.digest import Digest

EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "", "sha256", "sha256:", f"sha256:{EMPTY}0", f"sha256:{EMPTY[1:]}", f"sha256:{EMPTY.upper()}", f"md5:{EMPTY}",
        f"sha512:{EMPTY}", "sha256:../../etc/shadow", f"sha256:{EMPTY}\n", f" sha256:{EMPTY}",
        f"sha256:{EMPTY[1:]}\u0661",
    ],
)  # fmt: skip
def test_refuses(text):
    with pytest.raises(ValueError, match="not a digest"):
        Digest.parse(text)


def test_reads_what_it_writes():
    digest = Digest.parse(f"sha256:{EMPTY}")
    assert str(digest) == f"sha256:{EMPTY}"
    assert Digest("sha512", hashlib.sha512(b"").hexdigest()) != digest
