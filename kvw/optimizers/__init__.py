"""Optimizers: each proposes vectors and learns from their scores, one algorithm a file.

They see vectors and outcomes, never a voice, audio or torch.
"""

from kvw.optimizers.base import Optimizer, Outcome
from kvw.optimizers.proposals import Proposals
from kvw.optimizers.walk import Walk

__all__ = ["Optimizer", "Outcome", "Proposals", "Walk"]
