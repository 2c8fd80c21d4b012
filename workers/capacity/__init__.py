"""From images a day to workers, partitions, memory and brokers. Arithmetic alone: nothing here measures or asks."""

from workers.capacity.plan import Bound, CapacityPlan, Demand
from workers.capacity.profile import BUILT_IN, Decoded, MachineProfile, parse_profile

__all__ = [
    "BUILT_IN",
    "Bound",
    "CapacityPlan",
    "Decoded",
    "Demand",
    "MachineProfile",
    "parse_profile",
]
