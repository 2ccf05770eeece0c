"""The methods, one file each: a step function over the training loop."""
