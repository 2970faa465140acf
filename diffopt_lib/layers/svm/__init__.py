"""Support vector machines as layers: open :mod:`.layer` for the problem."""

from .layer import LinearSVM, SVMHead, linear_svm, svm_head

__all__ = ["LinearSVM", "SVMHead", "linear_svm", "svm_head"]
