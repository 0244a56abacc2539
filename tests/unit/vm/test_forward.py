import socket

import pytest

from keelboot.failure import PortInUse
from keelboot.vm.forward import Forward
from keelboot.vm.ports import chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", Forward(8080, 80)),
        ("0:22", Forward(0, 22)),
        ("0.0.0.0:8080:80", Forward(8080, 80, "0.0.0.0")),
        ("5353:53/udp", Forward(5353, 53, protocol="udp")),
        ("127.0.0.2:1:65535/tcp", Forward(1, 65535, "127.0.0.2")),
    ],
)
def test_reads(text: str, expected: Forward) -> None:
    assert Forward.parse(text) == expected
    assert Forward.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "80", "80:", ":80", "80:0", "65536:80", "80:65536", "80:80/sctp", "-1:80", "1.2.3:80:80", "256.0.0.1:80:80",
     "80:80,hostfwd=tcp::1-:2", "localhost:80:80", "::1:80:80", " 80:80", "٨٠:80", "80:80\n"],
)  # fmt: skip
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        Forward.parse(text)


def test_finds_free_ports_and_keeps_the_others() -> None:
    first, second, third = chosen([Forward(0, 22), Forward(0, 80), Forward(0, 53, protocol="udp")])
    assert 0 < first.host != second.host > 0
    assert third.host > 0
    assert chosen([first]) == (first,)


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_tells_of_a_port_in_use(protocol: str, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)) as caught:
            chosen([Forward(port, 80, protocol=protocol)])
    assert "-p 0:80" in caught.value.fix
    chosen([Forward(port, 80, protocol=protocol)])


def test_the_same_port_twice_is_in_use() -> None:
    (forward,) = chosen([Forward(0, 80)])
    with pytest.raises(PortInUse):
        chosen([forward, Forward(forward.host, 81)])
