// Package crds names the types of which controller-gen makes custom resource definitions.
package crds

import _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
