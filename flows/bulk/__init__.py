"""Files of tasks as one flow run."""

from tta_dev_primitives.flows.prefect_support.old_entrypoints import moved_from

__getattr__ = moved_from(__name__)
