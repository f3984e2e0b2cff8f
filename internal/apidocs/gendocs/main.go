// Gendocs writes the page of an OpenAPI document to a file:
//
//	gendocs docs/openapi.json docs/api.html
package main

import (
	"errors"
	"fmt"
	"os"

	"tachikoma/internal/apidocs"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: gendocs DOCUMENT PAGE")
	}
	document, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	page, err := apidocs.Page(document)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return os.WriteFile(args[1], page, 0o644)
}
