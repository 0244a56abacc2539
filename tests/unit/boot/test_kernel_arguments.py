import pytest

from keelboot.boot import kernel_arguments
from keelboot.failure import InvalidImage

DIGEST = "ab" * 32


def test_order_is_deployment_defaults_image_machine() -> None:
    line = kernel_arguments.command_line(DIGEST, "amd64", image=["a=1"], machine=["b=2", 'c="x y"'])
    words = line.split(" ")
    assert words[0] == f"composefs={DIGEST}"
    assert words[-4:] == ["a=1", "b=2", 'c="x', 'y"']
    assert line.index("console=tty0") < line.index("console=ttyS0,115200n8") < line.index("a=1")


@pytest.mark.parametrize(
    "word", ["", "a b", 'a="b c', "a\nb", "composefs=00", "composefs.digest=v1-sha256-12:00", "composefs"]
)
def test_refuses_what_is_not_one_argument_or_names_a_deployment(word: str) -> None:
    with pytest.raises(ValueError, match=r"argument|quote|deployment"):
        kernel_arguments.command_line(DIGEST, "amd64", machine=[word])


def test_image_files_apply_in_name_order_and_by_architecture() -> None:
    files = {
        "20-b.toml": b'kargs = ["b"]',
        "10-a.toml": b'kargs = ["a=1", "a=2"]\nmatch-architectures = ["x86_64"]',
        "15-arm.toml": b'kargs = ["arm"]\nmatch-architectures = ["aarch64"]',
        "README": b"not for us",
    }
    assert kernel_arguments.of_image(files, "amd64") == ["a=1", "a=2", "b"]
    assert kernel_arguments.of_image(files, "arm64") == ["arm", "b"]


@pytest.mark.parametrize(
    "content",
    [b"kargs = 1", b"", b'kargs = ["a"]\nextra = 1', b"kargs = [1]", b"\xff", b"kargs", b'kargs = ["composefs=00"]',
     b'kargs = ["a"]\nmatch-architectures = "x86_64"'],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"kargs\.d/x\.toml"):
        kernel_arguments.of_image({"x.toml": content}, "amd64")
