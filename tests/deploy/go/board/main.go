// board reads a Grafana dashboard from standard input as Grafana's own types have it: an unknown
// field, a wrong type or a missing one is an error, each on a line of its own.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	raw, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = read(raw)
	}
	// The SDK's error without any entry is not nil, but says nothing.
	if err != nil && err.Error() != "" {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(raw []byte) error {
	var board dashboard.Dashboard
	if err := board.UnmarshalJSONStrict(raw); err != nil && err.Error() != "" {
		return err
	}
	return board.Validate()
}
