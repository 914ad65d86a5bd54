// Package testdata has the host and the domain of the program's own demonstration. Tests read the rest of the folder
// as files.
package testdata

import _ "embed"

//go:embed hosts/fern.txtar
var demoHost []byte

//go:embed domains/demo.xml
var demoDomain []byte

// DemoHost returns the host of the demonstration, as package sysfstest reads it.
func DemoHost() []byte { return demoHost }

// DemoDomain returns its domain XML.
func DemoDomain() []byte { return demoDomain }
