"""The record of a deployment, where the modules of a running machine look for it; a disk is made with the same one."""

from keelboot.assembly.record import VERSION, Record, State

__all__ = ["VERSION", "Record", "State"]
