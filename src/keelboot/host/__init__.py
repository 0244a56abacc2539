"""A machine that runs a deployment: stage, bless, roll back, drop; /etc, health, status. docs/formats/deployment.md."""
