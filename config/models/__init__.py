"""What is known of models: catalogue, prices, targets, usage."""
