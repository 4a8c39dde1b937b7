"""Eight GPUs on three machines: what `etr render k8s` is to be tried on."""
