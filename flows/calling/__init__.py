"""The way of one provider call: who may call now, and through which layers."""
