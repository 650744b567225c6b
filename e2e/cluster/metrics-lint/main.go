// Reads a /metrics page on standard input as Prometheus does, by its own parser and its own lint. Prints what is wrong
// with it, one problem a line, and ends with 1 if there is any.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func main() {
	page, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		fail(err)
	}
	if len(families) == 0 {
		fail(fmt.Errorf("there is no metric"))
	}
	problems, err := promlint.New(bytes.NewReader(page)).Lint()
	if err != nil {
		fail(err)
	}
	for _, problem := range problems {
		fmt.Printf("%s: %s\n", problem.Metric, problem.Text)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Printf("%v\n", err)
	os.Exit(1)
}
