"""Scaling on a real Kubernetes control plane, without a container: `make kube`.

etcd, the API server, the controllers, the scheduler and KEDA are built from their sources once. The node is ours: it
runs `tagstream` for each pod that the scheduler gives it.
"""
