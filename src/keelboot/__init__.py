"""keelboot: from a Containerfile to a machine that boots, verifies itself and updates atomically."""

__version__ = "0.1.0"
