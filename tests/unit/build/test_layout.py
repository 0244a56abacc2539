import hashlib
import json
from pathlib import Path

from keelboot.build import layout
from keelboot.image.documents import parse_config, parse_index, parse_manifest

DESCRIPTION = layout.Description("amd64", 1_700_000_000, "made by a test", "a comment")


def write(directory: Path, content: bytes = b"a layer") -> Path:
    directory.mkdir()
    (directory / "layer.tar").write_bytes(content)
    layout.write(directory / "layout", directory / "layer.tar", DESCRIPTION)
    return directory / "layout"


def test_every_blob_is_what_its_name_says(tmp_path: Path) -> None:
    blobs = list((write(tmp_path / "a") / "blobs/sha256").iterdir())
    assert len(blobs) == 3
    assert all(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs)


def test_our_own_strict_reader_takes_it(tmp_path: Path) -> None:
    written = write(tmp_path / "a")
    index = parse_index((written / "index.json").read_bytes(), None)
    manifest = parse_manifest(
        (written / "blobs/sha256" / index.manifests[0].digest.hex).read_bytes(), index.manifests[0].media_type
    )
    config = parse_config((written / "blobs/sha256" / manifest.config.digest.hex).read_bytes())
    assert config.created == "2023-11-14T22:13:20Z"
    assert [str(digest) for digest in config.diff_ids] == ["sha256:" + hashlib.sha256(b"a layer").hexdigest()]
    assert manifest.layers[0].size == 7


def test_the_same_layer_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", b"other")
    assert (first / "index.json").read_bytes() == (second / "index.json").read_bytes()
    assert (first / "index.json").read_bytes() != (other / "index.json").read_bytes()


def test_history_tells_what_made_it(tmp_path: Path) -> None:
    blobs = [json.loads(blob.read_bytes()) for blob in write(tmp_path / "a", b"{}").glob("blobs/sha256/*")]
    (history,) = [blob["history"] for blob in blobs if "history" in blob]
    assert history == [{"created": "2023-11-14T22:13:20Z", "created_by": "made by a test", "comment": "a comment"}]
