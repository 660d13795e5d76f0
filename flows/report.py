"""Where version 0.1.0 kept `spend_report`; a stored deployment that names it is refused with the remedy."""

from tta_dev_primitives.flows.prefect_support.old_entrypoints import moved_from

__getattr__ = moved_from(__name__)
