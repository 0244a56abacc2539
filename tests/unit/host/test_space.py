"""What does not fit is refused before anything is fetched, where the image's label says enough for that."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from keelboot.boot import esp
from keelboot.boot.systemd_boot import boot_digest
from keelboot.failure import InvalidImage, OutOfSpace
from keelboot.host import records, space, upgrade
from keelboot.host.sysroot import Sysroot
from keelboot.host.upgrade import Result, Wish
from keelboot.image import layers, needs
from keelboot.image.needs import Contents, File, Needs
from keelboot.image.reference import Reference
from keelboot.image.transports import Image, open_image
from keelboot.image.tree import Directory, External, ObjectId, Regular
from small_images import Files, layer_blobs, relabel, snapshot, write_layout
from small_machines import boots, faults, machine, staged, version, version_layers, with_versions

ESP = "Insufficient free space on the ESP"
VAR = "Insufficient free space in"
HUGE = 1 << 60  # bytes, more than any disk has
SEEDS = "usr/share/factory/var"
Change = Callable[[Needs], Needs]


def measured(source: Reference) -> Needs:
    contents = Contents()
    with open_image(source) as image:
        tree = layers.read_tree(image, contents)
        found = needs.measure(tree, image.config.diff_ids, contents.sha256)
    assert found
    return found


def labelled(directory: Path, number: int, change: Change = lambda one: one, **options: object) -> Reference:
    """The version NUMBER with the label that `keelboot build` gives it, or with that label after a CHANGE."""
    source = version(directory, number, **options)  # type: ignore[arg-type]
    relabel(Path(source.location), {needs.LABEL: str(change(measured(source)))})
    return source


def larger_kernel(needed: Needs) -> Needs:
    return replace(needed, kernel=File(needed.kernel.digest, HUGE))


def brings(**sizes: int) -> Change:
    """Files of such SIZES in directories of /var/lib."""
    return lambda needed: replace(needed, var={f"lib/{name}".encode(): size for name, size in sizes.items()})


def without_layers(source: Reference) -> Reference:
    """SOURCE, of which no layer can be opened any more."""
    for blob in layer_blobs(Path(source.location)):
        blob.unlink()
    return source


def all_files(sysroot: Sysroot) -> list[Mapping[str, str]]:
    return [snapshot(sysroot.root), snapshot(sysroot.esp), snapshot(sysroot.run)]


def update(sysroot: Sysroot, booted: ObjectId, source: Reference, **options: object) -> Result:
    return upgrade.update(sysroot, booted, Wish(source=source, jobs=1, **options)).result  # type: ignore[arg-type]


def check(sysroot: Sysroot, booted: ObjectId, source: Reference, *, rehearse: bool = True, **options: object) -> bool:
    wish = Wish(source=source, jobs=1, **options)  # type: ignore[arg-type]
    return upgrade.check(sysroot, booted, wish, rehearse=rehearse).changed


@pytest.mark.parametrize(("change", "said"), [(larger_kernel, ESP), (brings(new=HUGE), VAR)])
@pytest.mark.parametrize("download_only", [False, True])
def test_what_does_not_fit_is_refused_and_nothing_is_fetched_or_written(
    change: Change, said: str, download_only: bool, tmp_path: Path
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = without_layers(labelled(tmp_path, 2, change, kernel=True))
    (tmp_path / "var").mkdir()
    before = all_files(sysroot)
    with pytest.raises(OutOfSpace, match=said):
        update(sysroot, first, source, var=tmp_path / "var", download_only=download_only)
    assert all_files(sysroot) == before
    with pytest.raises(OutOfSpace, match=said):
        check(sysroot, first, source, var=tmp_path / "var")
    assert all_files(sysroot) == before
    assert check(sysroot, first, source, rehearse=False, var=tmp_path / "var"), "only looking refuses nothing"


def test_what_fits_is_staged(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    seeds = {
        "usr/share": None,
        "usr/share/factory": None,
        SEEDS: None,
        f"{SEEDS}/lib": None,
        f"{SEEDS}/lib/a": b"a" * 99,
    }
    (tmp_path / "var").mkdir()
    source = labelled(tmp_path, 2, kernel=True, files=seeds)
    assert check(sysroot, first, source, var=tmp_path / "var")
    assert update(sysroot, first, source, var=tmp_path / "var") is Result.STAGED
    assert faults(sysroot) == []


def test_the_label_names_the_kernel_as_the_esp_does(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    seen: list[str] = []
    source = labelled(tmp_path, 2, kernel=True)
    needed = esp.needed
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(esp, "needed", lambda *words, **more: seen.append(words[1]) or needed(*words, **more))
        assert update(sysroot, first, source) is Result.STAGED
    [staged_one] = [one for one in records.deployments(sysroot) if one.digest != first]
    assert seen == [staged_one.boot_digest] * 2, "before the layers were fetched, and after that"


def test_a_kernel_that_is_there_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source, other = labelled(tmp_path, 2), without_layers(labelled(tmp_path, 3, kernel=True))
    room = esp.needed(sysroot.esp, records.read(sysroot, first).boot_digest, (54000, 45000))
    monkeypatch.setattr(esp, "free", lambda _: room)
    with pytest.raises(OutOfSpace, match=ESP):
        update(sysroot, first, other)
    assert check(sysroot, first, source)
    assert update(sysroot, first, source) is Result.STAGED


def test_of_var_only_directories_count_that_the_machine_has_not(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    var = tmp_path / "var"
    (var / "lib/there").mkdir(parents=True)
    (var / "lib/link").symlink_to("nowhere")
    assert update(sysroot, first, labelled(tmp_path, 2, brings(there=HUGE, link=HUGE, new=5)), var=var) is Result.STAGED


@pytest.mark.parametrize(
    "label",
    [
        lambda _: "",
        lambda needed: f"{needed} esp=1",
        lambda needed: str(needed).replace("kernel=", "linux="),
        lambda needed: str(replace(larger_kernel(needed), layers=needed.kernel.digest)),
    ],
    ids=["empty", "of a later version", "malformed", "of other layers"],
)
def test_a_label_that_does_not_count_refuses_nothing(label: Callable[[Needs], str], tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2, kernel=True)
    relabel(Path(source.location), {needs.LABEL: label(measured(source))})
    assert check(sysroot, first, source)
    assert update(sysroot, first, source) is Result.STAGED


def test_an_entry_has_to_fit_whatever_the_image_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = without_layers(version(tmp_path, 2))
    room = esp.needed(sysroot.esp, "", ())
    monkeypatch.setattr(esp, "free", lambda _: room - 1)
    before = all_files(sysroot)
    for act in (update, check):
        with pytest.raises(OutOfSpace, match="a boot entry needs"):
            act(sysroot, first, source)
        assert all_files(sysroot) == before
    monkeypatch.setattr(esp, "free", lambda _: room)
    with pytest.raises(InvalidImage):  # whose layers are missing
        update(sysroot, first, source)


def test_without_a_true_label_the_later_check_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = labelled(tmp_path, 2, lambda one: replace(one, kernel=File(one.kernel.digest, 1)), kernel=True)
    room = esp.needed(sysroot.esp, "0" * 64, (1, 45000))
    monkeypatch.setattr(esp, "free", lambda _: room)
    with pytest.raises(OutOfSpace, match=ESP):
        update(sysroot, first, source)
    assert boots(sysroot) == [first.hex[:8]]


def test_unused_kernels_make_room_and_a_dry_run_only_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    old = sysroot.esp / "EFI/keelboot" / ("0" * 64)
    old.mkdir()
    (old / "vmlinuz").write_bytes(b"k" * 1_000_000)
    monkeypatch.setattr(esp, "free", lambda _: 5000 if old.exists() else 900_000)
    before = all_files(sysroot)
    fits = labelled(tmp_path, 2, kernel=True)
    assert check(sysroot, first, fits)
    assert all_files(sysroot) == before
    with pytest.raises(OutOfSpace, match=ESP):
        check(sysroot, first, without_layers(labelled(tmp_path, 3, larger_kernel, kernel=True)))
    assert all_files(sysroot) == before
    assert update(sysroot, first, fits) is Result.STAGED
    assert not old.exists()


def test_a_dry_run_does_not_count_on_a_kernel_that_would_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that was cut left it there: it goes with what is unused, and comes again."""
    sysroot, [first] = with_versions(tmp_path, 1)
    source = labelled(tmp_path, 2, kernel=True)
    kernel, initramfs = b"kernel 2" * 900, b"initramfs" * 5000
    digests = [hashlib.sha256(one).digest() for one in (kernel, initramfs)]
    esp.add_kernel(sysroot.esp, boot_digest(*digests), [kernel], [initramfs])
    monkeypatch.setattr(esp, "free", lambda _: 100)
    before = all_files(sysroot)
    with pytest.raises(OutOfSpace, match=ESP):
        check(sysroot, first, source)
    assert all_files(sysroot) == before


# What else an operating system has, and does not compress.
OTHERS: Mapping[str, bytes | None] = {"usr/lib": None, "usr/lib/others": Random(1).randbytes(200_000)}


def layers_read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The layers that are opened from now on, by DiffID."""
    seen: list[object] = []
    open_layer = Image.open_layer
    monkeypatch.setattr(Image, "open_layer", lambda image, one: seen.append(one.diff_id) or open_layer(image, one))
    return seen


@pytest.mark.parametrize("short", [1, 0])
def test_an_image_that_says_nothing_is_read_beforehand_where_room_is_tight(
    short: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the layer that the store has not, and nothing of it is kept where the kernel does not fit."""
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2, kernel=True, files=OTHERS)
    room = esp.needed(
        sysroot.esp, "0" * 64, [file.size for file in (measured(source).kernel, measured(source).initramfs)]
    )
    monkeypatch.setattr(esp, "free", lambda _: room - short)
    before, seen = all_files(sysroot), layers_read(monkeypatch)
    with open_image(source) as image:
        new = image.layers[-1].diff_id
    if short:
        with pytest.raises(OutOfSpace, match="the kernel and its initramfs need"):
            update(sysroot, first, source)
        assert all_files(sysroot) == before
    else:
        assert update(sysroot, first, source) is Result.STAGED
    assert seen == [new] * (2 - short)


def test_where_there_is_room_for_all_layers_nothing_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    (tmp_path / "var").mkdir()
    seen = layers_read(monkeypatch)
    assert update(sysroot, first, version(tmp_path, 2, kernel=True), var=tmp_path / "var") is Result.STAGED
    assert len(seen) == 1


def test_a_label_that_was_inherited_settles_what_the_layers_below_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    label = {needs.LABEL: str(measured(version(tmp_path, 2, kernel=True, files=OTHERS)))}
    layers = version_layers(2, kernel=True, files=OTHERS)
    more: Files = {"usr": None, "usr/more": b"more" * 99}
    source = write_layout(tmp_path / "child", *layers, more, labels={"containers.bootc": "1"} | label)
    monkeypatch.setattr(esp, "free", lambda _: 150_000)  # more than a kernel, and less than all layers
    seen = layers_read(monkeypatch)
    assert update(sysroot, first, source) is Result.STAGED
    assert len(seen) == 2, "two layers, each of them once"


def test_a_kernel_in_a_layer_that_the_store_has_is_known_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    room = esp.needed(sysroot.esp, records.read(sysroot, first).boot_digest, (54000, 45000))
    monkeypatch.setattr(esp, "free", lambda _: room)
    seen = layers_read(monkeypatch)
    assert update(sysroot, first, version(tmp_path, 2, files=OTHERS)) is Result.STAGED
    assert len(seen) == 2, "its own layer, to measure it and to have it"


@pytest.mark.parametrize("say", [labelled, version], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("short", [1, 0])
def test_single_files_of_var_count_before_anything_is_written(
    short: int, say: Callable[..., Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    var, there, missing = tmp_path / "var", b"t" * 700, b"m" * 900
    (var / "lib/a").mkdir(parents=True)
    (var / "lib/a/there").write_bytes(b"")
    seeds = dict.fromkeys(("usr/share", "usr/share/factory", SEEDS, f"{SEEDS}/lib", f"{SEEDS}/lib/a"))
    files = {**seeds, f"{SEEDS}/lib/a/there": there, f"{SEEDS}/lib/a/missing": missing}
    source = say(tmp_path, 2, files=files)
    monkeypatch.setattr(space, "_free", lambda path: len(missing) - short if path == var else HUGE)
    before = all_files(sysroot)
    if short:
        with pytest.raises(OutOfSpace, match=VAR):
            update(sysroot, first, source, var=var)
        assert all_files(sysroot) == before
    else:
        assert update(sysroot, first, source, var=var) is Result.STAGED


@pytest.mark.parametrize("change", [larger_kernel, lambda one: one], ids=["too large", "it fits"])
def test_the_first_version_of_a_machine(change: Change, tmp_path: Path) -> None:
    sysroot = machine(tmp_path)
    source = labelled(tmp_path, 1, change)
    if change is larger_kernel:
        with pytest.raises(OutOfSpace, match=ESP):
            staged(sysroot, without_layers(source), tries=None)
        assert not [path for path in (sysroot.store / "objects").rglob("*") if path.is_file()]
        assert snapshot(sysroot.esp) == {}
    else:
        staged(sysroot, source, tries=None)
        assert len(boots(sysroot)) == 1


def test_a_var_that_is_not_made_yet_is_where_it_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Directory(children={b"usr": Directory(children={b"share": Directory(children={})})})
    seeds = Directory(children={b"data": Regular(content=External(ObjectId("0" * 64), 5000))})
    tree.children[b"usr"].children[b"share"].children[b"factory"] = Directory(children={b"var": seeds})  # type: ignore[union-attr]
    space.require_var(tmp_path / "state/var", tree, "an image")
    full = os.statvfs_result((1, 1, *[4] * 8))
    monkeypatch.setattr(os, "statvfs", {tmp_path: full}.__getitem__)
    with pytest.raises(OutOfSpace, match=VAR):
        space.require_var(tmp_path / "state/var", tree, "an image")
