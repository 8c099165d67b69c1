"""The reference model: how its corpus is built, how it is trained and how it is measured. See README.md."""
