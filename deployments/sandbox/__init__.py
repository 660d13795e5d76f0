"""A loopback provider that speaks the four wire formats, for trying and testing without keys."""

from tta_dev_primitives.deployments.sandbox.calls import Call
from tta_dev_primitives.deployments.sandbox.sandbox import Sandbox
from tta_dev_primitives.deployments.sandbox.scenario.file import load_scenario, parse_scenario
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Scenario

__all__ = ["Call", "Sandbox", "Scenario", "load_scenario", "parse_scenario"]
