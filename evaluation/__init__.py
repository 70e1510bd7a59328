"""Evaluate whatever maps images to descriptors: extraction, search, recall."""

from evaluation.evaluate import Evaluation, Protocol, evaluate

__all__ = ["Evaluation", "Protocol", "evaluate"]
