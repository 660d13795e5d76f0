"""What one task is, asks and gives back."""
