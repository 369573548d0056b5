"""The network face of a node: Open Inference Protocol over HTTP and gRPC, metrics, a load client."""
