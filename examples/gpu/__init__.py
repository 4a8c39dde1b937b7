"""An example for `etr render k8s`: vLLM on ten GPUs."""
