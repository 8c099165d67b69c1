"""Python side of hindsight: captures traces from Hugging Face models, and draws figures from result files."""

__version__ = "0.1.0"
