"""Python side of hindsight: captures traces from Hugging Face models, draws figures of results."""

__version__ = "0.1.0"
