"""What does not fit is refused before anything is fetched, where the image's label says enough for that."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.boot import esp
from keelboot.boot.systemd_boot import boot_digest
from keelboot.build.finish.measuring import Contents
from keelboot.failure import InvalidImage, OutOfSpace
from keelboot.host import records, upgrade
from keelboot.host.sysroot import Sysroot
from keelboot.host.upgrade import Result, Wish
from keelboot.image import layers, needs
from keelboot.image.needs import File, Needs
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId
from small_images import layer_blobs, relabel, snapshot
from small_machines import boots, faults, machine, staged, version, with_versions

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
