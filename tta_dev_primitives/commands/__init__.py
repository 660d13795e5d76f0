"""The commands of `tta`, one module each, imported only when called."""
