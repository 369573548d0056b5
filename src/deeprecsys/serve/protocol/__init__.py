"""The Open Inference Protocol: requests, inputs, replies, descriptions."""
