//go:build tools

package tools

// Prometheus, and the tool that checks rules and runs their tests, are built from these packages themselves.
import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
