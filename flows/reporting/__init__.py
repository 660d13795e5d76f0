"""What people see: spend report, run artifacts."""
