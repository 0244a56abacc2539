"""QEMU: a machine as a value, its console, its life from start to stop, and a way in over SSH."""
