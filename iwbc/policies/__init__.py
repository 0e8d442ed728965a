"""Policies: what an algorithm needs of one, the shipped families, and the policies of a run."""

from iwbc.policies.flow import CouplingFlow
from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.mixture import GaussianMixture
from iwbc.policies.networks import Units
from iwbc.policies.policy import Policy
from iwbc.policies.sequences import SequenceMixture

__all__ = ["CouplingFlow", "GaussianMLP", "GaussianMixture", "Policy", "SequenceMixture", "Units"]
