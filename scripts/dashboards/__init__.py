"""Grafana's dashboards, as code.

    python -m scripts.dashboards        writes deploy/helm/tagstream/dashboards/*.json

One that is new has two lines in the kustomization.yaml beside its file, too.

A test compares the files with what this writes, and `make dashboards` asks a real Prometheus every query.
"""
