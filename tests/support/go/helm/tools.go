//go:build tools

package tools

// Helm is built from this package itself.
import _ "helm.sh/helm/v3/cmd/helm"
