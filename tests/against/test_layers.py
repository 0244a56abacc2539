"""Layers read by us and by other programs give the same files: GNU tar writes for us, umoci unpacks beside us."""

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from keelboot.image.archive import Archive
from keelboot.image.layers import collect, read_tree
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import Directory, ObjectId, Regular, Symlink, file_type, walk


class Sink:
    def __init__(self):
        self.contents = {}

    def add(self, _, chunks):
        content = b"".join(chunks)
        name = ObjectId(hashlib.sha256(content).hexdigest())
        self.contents[name] = content
        return name

    def read(self, node):
        return node.content if isinstance(node.content, bytes) else self.contents[node.content.object]


def _ours(root, sink, *, nanoseconds):
    """What a tree says: path -> type and permissions, owner, content or target, time (of files), the paths it is."""
    found, names = {}, {}
    for path, node in walk(root):
        names.setdefault(id(node), []).append(path)
    for path, node in walk(root):
        time = (node.mtime, node.mtime_nsec if nanoseconds else 0)
        found[path] = (
            file_type(node) | (0 if isinstance(node, Symlink) else node.permissions),
            (node.uid, node.gid),
            sink.read(node) if isinstance(node, Regular) else node.target if isinstance(node, Symlink) else None,
            time if isinstance(node, Regular) else None,
            names[id(node)],
        )
    del found[b"/"]
    return found


def _theirs(top, *, nanoseconds):
    """The same of a directory of the host."""
    found, names = {}, {}
    top = os.fsencode(top)
    paths = [
        os.path.join(place, name)  # noqa: PTH118 - names are bytes here
        for place, directories, files in os.walk(top)
        for name in [*directories, *files]
    ]
    for path in sorted(paths):
        status = os.lstat(path)
        names.setdefault((status.st_ino, stat.S_ISDIR(status.st_mode) and path), []).append(path[len(top) :])
    for path in paths:
        status = os.lstat(path)
        content = time = None
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
            time = divmod(status.st_mtime_ns, 10**9) if nanoseconds else (status.st_mtime_ns // 10**9, 0)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)  # noqa: PTH115 - as above
        found[path[len(top) :]] = (
            stat.S_IFMT(status.st_mode) if stat.S_ISLNK(status.st_mode) else status.st_mode,
            (status.st_uid, status.st_gid),
            content,
            time,
            names[(status.st_ino, stat.S_ISDIR(status.st_mode) and path)],
        )
    return found


def _grow(top: Path, chance: random.Random, long_names: bool) -> None:
    """Some files of every kind an ordinary user can make."""
    places, files = [top], []
    for number in range(60):
        place = chance.choice(places)
        name = chance.choice(["x", "\u00e9", "a b", "-", ".dot", "tab\t", "new\nline"]) + str(number)
        if long_names and chance.random() < 0.3:
            name = name * 20
        path = place / name[:80]
        match chance.choice(["dir", "file", "file", "file", "symlink", "link", "fifo"]):
            case "dir":
                path.mkdir(mode=chance.choice([0o755, 0o700, 0o1777]))
                places.append(path)
                continue
            case "symlink":
                path.symlink_to(chance.choice(["/etc/passwd", "../x", "y" * (150 if long_names else 50)]))
            case "link" if files:
                path.hardlink_to(chance.choice(files))
            case "fifo":
                os.mkfifo(path, 0o640)
            case _:
                path.write_bytes(chance.randbytes(chance.choice([0, 1, 64, 65, 511, 512, 513, 5000, 300_000])))
                path.chmod(chance.choice([0o644, 0o4755, 0o600, 0]))
                files.append(path)
    for path in files:
        os.utime(path, ns=(0, chance.randrange(2**33) * 10**9 + chance.randrange(10**9)))


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_writes(form, tmp_path):
    if not shutil.which("tar") or b"GNU tar" not in subprocess.check_output(["tar", "--version"]):
        pytest.skip("GNU tar is not installed")
    top = tmp_path / "top"
    top.mkdir()
    _grow(top, random.Random(form), long_names=form in ("gnu", "pax"))
    if form == "v7":  # it has no fifos
        for path in top.rglob("*"):
            if path.is_fifo():
                path.unlink()
    if os.getuid():  # files without permissions can be read by root only
        for path in top.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o400)
    data = subprocess.check_output(
        ["tar", "-C", top, f"--format={form}", "--numeric-owner", "-cf", "-", "."], stderr=subprocess.PIPE
    )
    sink, root = Sink(), Directory()
    blocks = (data[at : at + 10_000] for at in range(0, len(data), 10_000))
    collect(Archive(blocks), sink).apply(root)
    assert _ours(root, sink, nanoseconds=form == "pax") == _theirs(top, nanoseconds=form == "pax")


class Layers:
    """Random layers as builders write them: parents first, whiteouts before their siblings."""

    def __init__(self, chance: random.Random):
        self.chance = chance
        self.known = {"": "dir"}  # path -> kind, what the layers so far add up to

    def layer(self) -> bytes:
        chance, file = self.chance, BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in [path for path in self.known if path and chance.random() < 0.2]:
                if path in self.known:
                    parent, _, name = path.rpartition("/")
                    opaque = self.known[path] == "dir" and chance.random() < 0.4
                    mark = f"{path}/.wh..wh..opq" if opaque else f"{parent}/.wh.{name}".lstrip("/")
                    self._drop(path, keep=opaque)
                    archive.addfile(self._info(mark, tarfile.REGTYPE))
            files = []
            for number in range(14):
                place = chance.choice([path for path, kind in self.known.items() if kind == "dir"])
                path = f"{place}/{chance.choice('abcdef')}".lstrip("/")
                kind = chance.choice(["dir", "file", "file", "symlink", "link"])
                if self.known.get(path) == "dir" and kind != "dir":
                    files = [one for one in files if not f"{one}/".startswith(f"{path}/")]
                if kind == "link":
                    targets = [one for one in files if one != path]
                    if not targets:
                        continue
                    archive.addfile(self._info(path, tarfile.LNKTYPE, chance.choice(targets)))
                elif kind == "file":
                    content = chance.randbytes(chance.choice([0, 64, 65, 3000]))
                    archive.addfile(self._info(path, tarfile.REGTYPE, size=len(content)), BytesIO(content))
                elif kind == "symlink":
                    archive.addfile(self._info(path, tarfile.SYMTYPE, chance.choice(["/etc", "..", "a", str(number)])))
                else:
                    archive.addfile(self._info(path, tarfile.DIRTYPE))
                if not (kind == "dir" and self.known.get(path) == "dir"):
                    self._drop(path)
                files = [one for one in files if one != path] + ([path] if kind == "file" else [])
                self.known[path] = kind
        return file.getvalue()

    def _drop(self, path, *, keep=False):
        self.known = {
            known: kind
            for known, kind in self.known.items()
            if not known.startswith(f"{path}/") and (keep or known != path)
        }

    def _info(self, path, kind, link="", size=0):
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.size = kind, link, size
        info.mode = self.chance.choice([0o755, 0o700] if kind == tarfile.DIRTYPE else [0o644, 0o600, 0o4755])
        info.mtime = self.chance.randrange(2**31)
        info.uid, info.gid = os.getuid(), os.getgid()
        return info


def _write_layout(path: Path, layers) -> None:
    (path / "blobs/sha256").mkdir(parents=True)

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    stored = [blob(layer, "layer.v1.tar") for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in stored]}
    config = blob(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    named = blob(json.dumps(manifest | {"config": config, "layers": stored}).encode(), "manifest.v1+json")
    named["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))


@pytest.mark.parametrize("seed", range(8))
def test_what_umoci_unpacks(seed, tmp_path):
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed")
    made = Layers(random.Random(seed))
    _write_layout(tmp_path / "image", [made.layer() for _ in range(5)])
    rootless = [] if os.getuid() == 0 else ["--rootless"]
    subprocess.run(
        ["umoci", "raw", "unpack", *rootless, "--image", tmp_path / "image:x", tmp_path / "out"],
        check=True,
        capture_output=True,
    )
    sink = Sink()
    with open_image(Reference.parse(f"oci:{tmp_path}/image:x")) as image:
        found = _ours(read_tree(image, sink), sink, nanoseconds=False)
    assert found == _theirs(tmp_path / "out", nanoseconds=False)
    assert set(found) == {b"/" + path.encode() for path in made.known if path}
