"""TensorRT and TensorRT for RTX: plans, their cache, and running them."""
