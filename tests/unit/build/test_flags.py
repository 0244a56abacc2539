import pytest

from keelboot.build.flags import Line


@pytest.mark.parametrize(
    ("words", "context"),
    [
        (". ", "."),
        ("-t web .", "."),
        ("-f Containerfile.edge src", "src"),
        ("--build-arg VERSION=2 src", "src"),
        ("--build-arg=VERSION=2 src", "src"),
        ("--no-cache src", "src"),
        ("--layers=false src", "src"),
        ("-tweb src", "src"),
        ("-t=web src", "src"),
        ("-qt web src", "src"),
        ("-qtweb src", "src"),
        ("-Dqf FILE src", "src"),
        ("-v /a:/b:ro --secret id=x,src=y --ssh default src", "src"),
        ("src --target last", "src"),
        ("--pull src", "src"),
        ("--squash -- -odd", "-odd"),
        ("-f - src", "src"),
        ("--an-option-of-tomorrow its-value src", "src"),
    ],
)
def test_context_is_the_last_word_that_is_no_value(words: str, context: str) -> None:
    assert Line.parse(words.split()).positional[-1] == context


@pytest.mark.parametrize(
    "words",
    ["-t a -f b --build-arg K=V --no-cache .", "-qt a .", "--x y -v a:b . --target z", "-- .", "--x=1 -tq ."],
)
def test_words_come_back_in_order(words: str) -> None:
    line = Line.parse(words.split())
    assert " ".join(line.words()) == words.replace("-qt a", "-q -t a")


def test_reads_values() -> None:
    line = Line.parse(["-t", "a", "--tag", "b", "--tag=c", "-td", "-t=e", "--no-cache", "--build-arg", "K=V", "."])
    assert line.values("tag") == ("a", "b", "c", "d", "e")
    assert line.values("build-arg") == ("K=V",)
    assert line.has("no-cache")
    assert not line.has("squash")
    assert line.without("tag", "no-cache").words() == ["--build-arg", "K=V", "."]


def test_an_option_of_ours_takes_its_value() -> None:
    assert Line.parse(["--kernel", "cloud", "."], own=frozenset({"kernel"})).positional == (".",)
    assert Line.parse(["--kernel", "cloud", "."]).positional == ("cloud", ".")


@pytest.mark.parametrize("words", [["-t"], [".", "--build-arg"], ["-qf"]])
def test_refuses_an_option_without_its_value(words: list[str]) -> None:
    with pytest.raises(ValueError, match="needs a value"):
        Line.parse(words)
