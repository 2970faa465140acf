"""Decisions made under a forecast, as layers, and what they cost once the outcome is known.

Each module has ``decide``, the decision y*(forecast), differentiable in everything it is told, and
``loss(decision, outcome)``. Training a forecast on ``loss(decide(forecast), outcome).mean()`` is training it on the
task. :mod:`.surrogates` has losses that need no derivative of the decision.

Chapter: book/2_differentiable/12_task_losses.
"""

from . import inventory, scheduling, storage, surrogates

__all__ = ["inventory", "scheduling", "storage", "surrogates"]
