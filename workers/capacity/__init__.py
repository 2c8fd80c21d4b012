"""From images a day to workers, partitions, memory and brokers. Arithmetic alone: nothing here measures or asks."""

from workers.capacity.plan import Bound, Demand, Plan
from workers.capacity.profile import BUILT_IN, Decoded, Profile, read_profile
from workers.capacity.simulation import Simulated, saturated, simulate

__all__ = [
    "BUILT_IN",
    "Bound",
    "Decoded",
    "Demand",
    "Plan",
    "Profile",
    "Simulated",
    "read_profile",
    "saturated",
    "simulate",
]
