"""What an image can hold."""

from keelboot.composefs.inodes import Inode, fault, name_fault


def test_limits_themselves_are_allowed() -> None:
    assert name_fault(b"n" * 255) is None
    assert fault(Inode(mode=0o100644, size=2**53)) is None
    assert fault(Inode(mode=0o120777, payload=b"t" * 4095)) is None
    assert fault(Inode(mode=0o100644, xattrs={b"user.x": bytes(32767 - 12 - 7 - 6)})) is None
