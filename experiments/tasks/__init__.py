"""Synthetic long-generation tasks: recall, chain and ledger. See README.md; `python3 -m experiments.tasks --help`."""
